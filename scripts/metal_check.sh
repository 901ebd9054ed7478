#!/usr/bin/env bash
# For anyone with a Mac: compiles the shaders with Apple's compiler, runs every kernel against the double-precision
# oracle and the demo model against its stored vectors, measures bandwidth, products, attention and the demo model, and
# writes one small report to attach to an issue.
#
#   scripts/metal_check.sh [REPORT]     (metal-report.txt; --emulated tries the script itself where there is no Metal)
set -uo pipefail
cd "$(dirname "$0")/.."
device=metal
build=build/metal-check
options=()
report=metal-report.txt
for argument in "$@"; do
  if [ "$argument" = --emulated ]; then
    device=metal-emulated
    options=(-DMARLIN_METAL_EMULATED=ON)
  else
    report=$argument
  fi
done
if [ "$device" = metal ] && [ "$(uname -s)" != Darwin ]; then
  echo "metal-check: this is no Mac; on Linux \`make metal\` runs the same kernels in an emulator" >&2
  exit 1
fi
if [ "$(uname -s)" = Darwin ]; then
  PKG_CONFIG_PATH="$(brew --prefix 2>/dev/null)/opt/libedit/lib/pkgconfig:${PKG_CONFIG_PATH:-}"
  export PKG_CONFIG_PATH
fi
jobs=$(nproc 2>/dev/null || sysctl -n hw.logicalcpu 2>/dev/null || echo 2)
demo=models/GLM-4.7-Flash-Demo-MMFP4

failed=()
# part NAME COMMAND...: its output goes to the report, a line about it to the terminal
part() {
  local name=$1 status=0 begin=$SECONDS
  shift
  printf '\n== %s\n' "$name" >>"$report"
  "$@" >>"$report" 2>&1 || status=$?
  printf '%-28s %s (%d s)\n' "$name" "$([ $status = 0 ] && echo ok || echo "FAILED, exit code $status")" $((SECONDS - begin))
  printf -- '-- %s: exit code %d\n' "$name" "$status" >>"$report"
  [ $status = 0 ] || failed+=("$name")
}

system() {
  date -u +%Y-%m-%dT%H:%MZ
  git rev-parse HEAD 2>/dev/null
  if [ "$(uname -s)" = Darwin ]; then
    sw_vers
    sysctl -n machdep.cpu.brand_string hw.memsize
  else
    uname -sr
  fi
}
# With the command-line tools alone there is no `metal`: then Metal compiles the shaders at run time, as the program does.
offline_compile() {
  if ! xcrun -sdk macosx --find metal >/dev/null 2>&1; then
    echo "no offline compiler here; the tests below compile at run time"
    return 0
  fi
  local file
  for file in src/backend/metal/kernels/*.metal; do
    echo "$file"
    xcrun -sdk macosx metal -std=metal3.1 -fno-fast-math -Wall -c "$file" -o /dev/null || return 1
  done
}
compile() {
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMARLIN_BENCH=ON "${options[@]}" --log-level=WARNING &&
    cmake --build "$build" -j "$jobs" --target metal-marlin op_test fused_layer_test metal_golden_test ragged_test op_bench
}

: >"$report"
part system system
part "shaders, offline" offline_compile
part build compile
part doctor "$build/src/cli/metal-marlin" doctor
part "kernels against the oracle" "$build/tests/ops/op_test" --gtest_filter='*metal*' --gtest_brief=1
part "fused layer" "$build/tests/metal/fused_layer_test" --gtest_brief=1
part "demo model" "$build/tests/metal/metal_golden_test" --gtest_brief=1
part "batches" "$build/tests/model/ragged_test" --gtest_filter='*Metal*' --gtest_brief=1
part "an answer" "$build/src/cli/metal-marlin" mmfp4 generate -m "$demo" --device "$device" -p "What is 23 + 45?" --temperature 0
[ "$device" = metal ] && part "ops, speed" "$build/bench/op_bench" metal
[ "$device" = metal ] && part "demo model, speed" "$build/src/cli/metal-marlin" mmfp4 bench -m "$demo" --device metal -p 256 -n 64 -d 0,1024 --roofline

echo
if [ ${#failed[@]} -gt 0 ]; then
  echo "metal-check: FAILED: $(printf '%s, ' "${failed[@]}" | sed 's/, $//'); please attach $report to an issue"
  exit 1
fi
echo "metal-check: everything passed; please attach $report to an issue, so that the README can say so"
