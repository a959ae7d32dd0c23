#!/usr/bin/env bash
# GRPO, Qwen2.5-VL 7B, four nodes; run on the head node of a Ray cluster (ray start), see multi_node_ray.slurm.
# More key=value arguments go on to the recipe: recipes/multi_node_ray.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
exec agentfly train recipes/multi_node_ray.yaml "$@"
