#!/usr/bin/env bash
# GRPO, Qwen2.5-VL 7B, 8 GPUs of 80 GB; a judge on port 9000, an image server on port 8000.
# More key=value arguments go on to the recipe: recipes/qwen2_5_vl_7b_grpo.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/qwen2_5_vl_7b_grpo.yaml "$@"
