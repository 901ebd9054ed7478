#!/usr/bin/env bash
# Compiles every object of the preset clang-libcxx (clang-19, libc++) and links none: Debian's libraries are built
# against libstdc++, but their headers and ours must compile with what a Mac has.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v clang++-19 >/dev/null; then
  echo "portable: clang++-19 is missing: scripts/setup.sh --ci installs it" >&2
  exit 1
fi
build=build/clang-libcxx
cmake --preset clang-libcxx --log-level=WARNING >/dev/null
objects=$(ninja -C "$build" -t targets all | sed -n 's/^\([^:]*\.o\): CXX_COMPILER.*/\1/p')
if [ -z "$objects" ]; then
  echo "portable: no object to compile in $build" >&2
  exit 1
fi
printf '%s\n' "$objects" | xargs ninja -C "$build" -j "$(nproc)" --quiet
echo "portable: $(printf '%s\n' "$objects" | wc -l) objects compile with clang-19 and libc++"
