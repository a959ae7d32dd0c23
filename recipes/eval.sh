#!/usr/bin/env bash
# The evaluation of recipes/eval.yaml; options win over the file: recipes/eval.sh --limit 20 --out runs/eval/try
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly eval --config recipes/eval.yaml "$@"
