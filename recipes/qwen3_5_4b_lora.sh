#!/usr/bin/env bash
# GRPO with LoRA, Qwen3.5 4B, one GPU of 40 to 80 GB, no image server.
# More key=value arguments go on to the recipe: recipes/qwen3_5_4b_lora.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/qwen3_5_4b_lora.yaml "$@"
