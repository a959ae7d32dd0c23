#!/usr/bin/env bash
# Asynchronous GRPO, Qwen2.5-VL 7B, two nodes: one trains, one rolls out.
# More key=value arguments go on to the recipe: recipes/async.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/async.yaml "$@"
