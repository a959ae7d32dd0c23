#!/usr/bin/env bash
# Runs every JSON file of a folder through the director-generator, sharded over several image servers by GNU parallel.
#
#   GPUS="0 1" JOBS=4 recipes/director_generator/parallel.sh FOLDER [further flags of the command]
#
# Server number i listens at port SDXL_PORT + i (7000, 7001, ...): one for each word of GPUS.
#   OUTPUT   where the folders of the runs go      (output)
#   PYTHON   interpreter                           (python)
#   JOBS     runs at once                          (4)
# Every run has a folder of its own with its result, its images and run.log. Exit code: the number of failed runs.
set -euo pipefail

folder=${1:?"usage: parallel.sh FOLDER [flags]: FOLDER has the JSON files"}
shift
[ -d "$folder" ] || { echo "error: there is no folder $folder" >&2; exit 1; }
command -v parallel > /dev/null || { echo "error: GNU parallel is not installed: apt-get install parallel" >&2; exit 1; }

export GPUS=${GPUS:-0} SDXL_PORT=${SDXL_PORT:-7000} OUTPUT=${OUTPUT:-output} PYTHON=${PYTHON:-python}

run_one() {
  local file=$1 number=$2
  shift 2
  local gpus out
  read -ra gpus <<< "$GPUS"
  out="$OUTPUT/$(date +%Y%m%d_%H%M%S_%N)_$(basename "$file" .json)"
  mkdir -p "$out"
  SDXL_API_BASE="http://127.0.0.1:$((SDXL_PORT + (number - 1) % ${#gpus[@]}))" \
    "$PYTHON" -m recipes.director_generator -f "$file" --output-dir "$out" "$@" > "$out/run.log" 2>&1
}
export -f run_one

find "$folder" -maxdepth 1 -name '*.json' -print0 | sort -z |
  SHELL=$(command -v bash) parallel -0 --jobs "${JOBS:-4}" --lb -q run_one {} {#} "$@"
