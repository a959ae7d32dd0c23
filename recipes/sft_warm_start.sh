#!/usr/bin/env bash
# A supervised warm start with adapters, Qwen2.5-VL 3B, one GPU of 24 GB.
# More key=value arguments go on: recipes/sft_warm_start.sh model=runs/quickstart/warm_start
set -euo pipefail
cd "$(dirname "$0")/.."
exec agentfly sft recipes/sft_warm_start.yaml "$@"
