#!/usr/bin/env bash
# Runs every fuzz target built in build/fuzz over tests/fuzz/corpus/NAME for SECONDS each, as many at once as there are
# cores. New inputs and crashes go to build/fuzz-found; the committed corpus is only read.
#
# usage: scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
jobs=$(nproc 2>/dev/null || sysctl -n hw.logicalcpu)

run_target() {
  local target=$1 name found corpus log
  name=$(basename "$target" _fuzz)
  corpus=tests/fuzz/corpus/$name
  found=build/fuzz-found/$name
  log=$found.log
  if [ -z "$(ls -A "$corpus" 2>/dev/null)" ]; then
    echo "fuzz: $name has no seed corpus in $corpus" >&2
    return 1
  fi
  mkdir -p "$found"
  # The first folder is the one that libFuzzer writes to.
  if ! "$target" -max_total_time="$2" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz-found/$name-" "$found" "$corpus" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "fuzz: $name failed; the input is in $(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)" >&2
    return 1
  fi
  echo "fuzz: $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs, no fault"
}
export -f run_target

targets=$(find build/fuzz -type f -name '*_fuzz' -perm -u+x | sort)
if [ -z "$targets" ]; then
  echo "fuzz: no target in build/fuzz (cmake --build --preset fuzz makes them)" >&2
  exit 1
fi
mkdir -p build/fuzz-found
# shellcheck disable=SC2016
printf '%s\n' "$targets" | xargs -P "$jobs" -I TARGET bash -c 'run_target "$1" "$2"' _ TARGET "$seconds"
