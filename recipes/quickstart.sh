#!/usr/bin/env bash
# The reinforcement part of the quickstart, on any machine; needs a warm start from: agentfly quickstart
# More key=value arguments go on to the recipe: recipes/quickstart.sh trainer.total_training_steps=3
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly train recipes/quickstart.yaml "$@"
