#!/usr/bin/env bash
# GRPO with LoRA, Qwen2.5-VL 3B, one GPU of 24 to 48 GB, no image server.
# More key=value arguments go on to the recipe: recipes/lora_single_gpu.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/lora_single_gpu.yaml "$@"
