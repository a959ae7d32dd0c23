#!/usr/bin/env bash
# GRPO on your own images, on any machine; the tasks are in mine.jsonl, or where agentfly.data.train=… says.
# More key=value arguments go on to the recipe: recipes/laptop.sh agentfly.data.train=photos trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/laptop.yaml "$@"
