#!/usr/bin/env bash
# GRPO, Qwen2.5-VL 7B, four nodes; run on the head node of a Ray cluster (ray start): multi_node_ray.slurm does it on
# Slurm, multi_node_ray.sky.yml with SkyPilot, multi_node_ray.kuberay.yml on Kubernetes.
# NODES=4 waits until so many nodes have joined.
# More key=value arguments go on to the recipe: recipes/multi_node_ray.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
count='import ray; ray.init(logging_level="ERROR"); print(sum(node["Alive"] for node in ray.nodes()))'
while [[ -n "${NODES:-}" ]] && joined="$(python -c "$count" 2>/dev/null || echo 0)" && ((joined < NODES)); do
    ((SECONDS < 1200)) || { echo "$joined of $NODES nodes have joined the Ray cluster within 20 minutes" >&2; exit 1; }
    sleep 2
done
exec agentfly train recipes/multi_node_ray.yaml "$@"
