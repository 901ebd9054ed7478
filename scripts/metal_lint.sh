#!/usr/bin/env bash
# Lints .metal files (tests/metal/lint/metal_lint.py): what Apple's compiler would refuse, as file:line: rule: text.
#
# usage: scripts/metal_lint.sh [FILE.metal...]      without files: all of src/backend/metal/kernels
set -eu
cd "$(dirname "$0")/.."
command -v clang++-19 >/dev/null || { echo "metal_lint: clang++-19 is missing: scripts/setup.sh --ci installs it"; exit 1; }
shopt -s nullglob
files=("$@")
[ ${#files[@]} -gt 0 ] || files=(src/backend/metal/kernels/*.metal)
[ ${#files[@]} -gt 0 ] || { echo "metal_lint: no .metal files in src/backend/metal/kernels"; exit 0; }
exec python3 -B tests/metal/lint/metal_lint.py "${files[@]}"
