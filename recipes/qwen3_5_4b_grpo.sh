#!/usr/bin/env bash
# GRPO, Qwen3.5 4B, 8 GPUs of 80 GB; image server on port 8000.
# More key=value arguments go on to the recipe: recipes/qwen3_5_4b_grpo.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/qwen3_5_4b_grpo.yaml "$@"
