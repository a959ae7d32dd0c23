#!/usr/bin/env bash
# PPO with a critic, Qwen2.5-VL 3B, 8 GPUs of 80 GB; image server on port 8000.
# More key=value arguments go on to the recipe: recipes/qwen2_5_vl_3b_ppo.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/qwen2_5_vl_3b_ppo.yaml "$@"
