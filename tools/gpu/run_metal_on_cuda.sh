#!/usr/bin/env bash
# Runs the Metal backend's shaders, compiled by nvcc, on an NVIDIA GPU against the oracle, and some of them again under
# compute-sanitizer. Prints a line for each part; fails if one of them does.
#
# usage: tools/gpu/run_metal_on_cuda.sh [PROGRAM]
#   PROGRAM    metal_on_cuda_test as built elsewhere, with metal_on_cuda_racy beside it; without it, both are built here
#   REAL=0     leave out the shapes of the real model, which take gigabytes and minutes
#   TOOLS      of compute-sanitizer: "racecheck memcheck synccheck"
#   SECONDS_A_TOOL  the time that each may take: 240
#   LOGS       a folder for what the parts print: build/metal-on-cuda
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
logs=${LOGS:-$root/build/metal-on-cuda}
mkdir -p "$logs"
program=${1:-}
failed=0

if [ -z "$program" ]; then
  PATH=$PATH:/usr/local/cuda/bin
  command -v nvcc >/dev/null || {
    echo "metal-on-cuda: no nvcc, and no program was given" >&2
    exit 2
  }
  if ! { cmake -S "$root" -B "$root/build/cuda" -DCMAKE_BUILD_TYPE=Release -DMARLIN_KERNELS_ONLY=ON \
    -DMARLIN_METAL_ON_CUDA=ON && cmake --build "$root/build/cuda" -j --target metal_on_cuda_test metal_on_cuda_racy; } \
    >"$logs/build.log" 2>&1; then
    tail -30 "$logs/build.log"
    exit 2
  fi
  program=$root/build/cuda/tests/metal/cuda/metal_on_cuda_test
fi

# part NAME COMMAND…: runs it; a part in which a test was skipped has failed, and so has a tool that found anything.
part() {
  local name=$1 log="$logs/$1.log" code=0 start=$SECONDS
  shift
  timeout --kill-after=10 "${limit:-1500}" "$@" >"$log" 2>&1 || code=$?
  local passed wrong skipped found
  passed=$(grep -c '^\[       OK \]' "$log")
  wrong=$(grep -c '^\[  FAILED  \].*ms)$' "$log")
  skipped=$(grep -c '^\[  SKIPPED \].*ms)$' "$log")
  found=$(grep -oE 'ERROR SUMMARY: .*|RACECHECK SUMMARY: .*|Error: .*' "$log" | head -1)
  local verdict=ok
  if [ "$code" -ne 0 ] || [ "$passed" -eq 0 ] || [ "$skipped" -ne 0 ]; then
    verdict="FAILED (exit $code)"
    failed=1
  fi
  echo "$name: $verdict, $passed passed, $wrong failed, $skipped skipped, $((SECONDS - start)) s${found:+; $found}"
}

echo "metal-on-cuda: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
part ops "$program" --gtest_filter='-Real/*'
grep -E '^\[  FAILED  \]' "$logs/ops.log" | sort -u | head -40
if [ "${REAL:-1}" != 0 ]; then
  part real "$program" --gtest_filter='Real/*'
  grep -E '^\[  FAILED  \]' "$logs/real.log" | sort -u
fi

# Every kernel is in one of these; most shapes are left out, since a tool makes a kernel some hundred times slower.
subset='Kinds/*Fp4Mixed:Kinds/*PlainMixed:Kinds/*PlanesMixed:Ops/BackendTest.C*:Ops/BackendTest.F*'
for case in 'LinearFp4G32K96*' 'LinearBF16K33*' 'LinearFp4G32G128K128*' 'EmbedFp4*' 'RmsNorm*' 'Rope*' Add Swiglu GatherRows \
  'MlaA*F16Fp4G32' 'MlaUnabsorbF16Fp4G32' 'MlaExpandedF16Fp4G32' 'MlaAttendQ8Prompt' 'MlaAttendLongContexts' 'Route*' \
  'ExpertLinear*' 'ExpertSum*' 'FusedMoeFp4*' 'DecomposedMoeFp4Top*' '*AllFilters' '*TopK7' '*Penalties' '*MaskAndBias'; do
  subset+=":Ops/OpTest.*metal_on_cuda_$case"
done
sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer || true)
if [ -z "$sanitizer" ]; then
  echo "compute-sanitizer: not here"
else
  limit=${SECONDS_A_TOOL:-240}
  for tool in ${TOOLS:-racecheck memcheck synccheck}; do
    part "$tool" "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 "$program" --gtest_filter="$subset"
    grep -E '^========= (Error|Warning|Invalid|Hazard|    at )' "$logs/$tool.log" | sort | uniq -c | sort -rn | head -10
  done
  racy=$(dirname "$program")/metal_on_cuda_racy # gemm.metal without its barriers
  if [ -x "$racy" ]; then
    timeout "$limit" "$sanitizer" --tool racecheck --error-exitcode 9 --print-limit 20 "$racy" \
      --gtest_filter='Kinds/FusedLayerTest.LinearAdd/Fp4Prompt' >"$logs/control.log" 2>&1
    if grep -q 'RACECHECK SUMMARY: [1-9]' "$logs/control.log"; then
      echo "control: ok, racecheck sees missing barriers"
    else
      echo "control: FAILED, racecheck does not see missing barriers"
      failed=1
    fi
  fi
fi
exit "$failed"
