#!/usr/bin/env bash
# Format, layers and sizes, shell scripts, Metal shaders, and clang-tidy on changed code; warnings are errors.
#
# usage: scripts/lint.sh [--all]
#   --all      clang-tidy on every file, with the static analyzer
#   BASE=REV   what counts as changed: differences from REV. Otherwise from where this branch left origin/main, or,
#              on main itself, from its last commit older than 12 hours; without one, every file is checked.
set -euo pipefail
cd "$(dirname "$0")/.."

clang_format=${CLANG_FORMAT:-clang-format-14}
clang_tidy=${CLANG_TIDY:-clang-tidy-14}
build=${LINT_BUILD:-build/release} # where compile_commands.json is

for tool in "$clang_format" "$clang_tidy"; do
  command -v "$tool" >/dev/null || {
    echo "lint: $tool is missing: scripts/setup.sh --ci installs it" >&2
    exit 1
  }
done

find_base() {
  if [ -n "${BASE:-}" ]; then
    git rev-parse --verify --quiet "$BASE^{commit}" || {
      echo "lint: BASE=$BASE is no commit here" >&2
      return 1
    }
    return
  fi
  local base
  base=$(git merge-base HEAD origin/main 2>/dev/null || true)
  if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git rev-list -1 --before='12 hours ago' HEAD)
  fi
  echo "$base"
}

failed=0
echo "lint: clang-format"
git ls-files -z -- '*.cc' '*.cpp' '*.h' '*.hpp' '*.cu' '*.cuh' |
  xargs -0 -r "$clang_format" --dry-run -Werror || failed=1

echo "lint: layers, sizes, paths"
python3 scripts/check_layers.py --self-test || failed=1
python3 scripts/check_layers.py || failed=1

echo "lint: shell scripts"
while IFS= read -r script; do
  bash -n "$script" || failed=1
  if command -v shellcheck >/dev/null; then shellcheck "$script" || failed=1; fi
done < <(git ls-files -- '*.sh' .ci/run)

echo "lint: Metal shaders"
if command -v clang++-19 >/dev/null; then
  scripts/metal_lint.sh || failed=1
else
  echo "lint: skipped: clang++-19 is missing"
fi

[ -e "$build/compile_commands.json" ] || cmake --preset release >/dev/null
scope=(--analyze)
if [ "${1:-}" != --all ]; then
  base=$(find_base)
  scope=(${base:+--base "$base"})
fi
python3 scripts/tidy.py --tidy "$clang_tidy" --build "$build" ${scope[@]+"${scope[@]}"} || failed=1

[ $failed = 0 ] || echo "lint: failed" >&2
exit $failed
