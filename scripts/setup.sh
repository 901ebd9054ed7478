#!/usr/bin/env bash
# Installs what the build needs and this machine lacks: apt on Debian 12, Homebrew on macOS.
# Quick and silent when everything is there; never asks, never removes a package in silence.
#
# usage: scripts/setup.sh [--ci]
#   --ci   also the linters, the second compiler, the cross compiler and node that CI uses
set -euo pipefail
cd "$(dirname "$0")/.."

apt_packages=(g++ cmake make ninja-build ccache pkg-config git python3
  libcli11-dev libfmt-dev libsimdjson-dev nlohmann-json3-dev libpcre2-dev libedit-dev
  libgtest-dev libgmock-dev)
apt_ci_packages=(clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev
  clang-19 libc++-19-dev libc++abi-19-dev g++-aarch64-linux-gnu qemu-user googletest)
brew_packages=(cmake ninja ccache pkg-config cli11 fmt simdjson nlohmann-json pcre2 libedit googletest)
oracle=tests/text/oracle # compares tokenizer and template with npm's packages

say() { echo "setup: $*"; }
die() {
  echo "setup: $*" >&2
  exit 1
}

# Runs a command quietly; its output is added to $log for explain_failure.
quietly() { "$@" >>"$log" 2>&1 </dev/null; }

# explain_failure WHAT: one clear line for the failure in $log, then the log's last lines.
explain_failure() {
  local pattern='Could not resolve|Temporary failure|Could not connect|Unable to connect|timed out|unreachable|Failed to connect|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|ECONNREFUSED'
  local missing
  missing=$(sed -n 's/^E: Unable to locate package //p; s/^E: Package .\(.*\). has no installation candidate/\1/p' "$log" | paste -sd' ' -)
  if grep -qE "$pattern" "$log"; then
    echo "setup: $1 failed: no connection to a package server; check the network or proxy, then run this again" >&2
    grep -m 1 -E "$pattern" "$log" | sed 's/^/    /' >&2
    exit 1
  elif [ -n "$missing" ]; then
    echo "setup: $1 failed: this system has no package $missing (Debian 12 is what the list is made for)" >&2
  else
    echo "setup: $1 failed; its last lines follow" >&2
  fi
  tail -n 5 "$log" | sed 's/^/    /' >&2
  exit 1
}

# as_root COMMAND...: plainly as root, else by sudo (which asks for a password only on a terminal).
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif [ -t 2 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

# missing_apt PACKAGE...: those that dpkg does not know as installed.
missing_apt() {
  local installed package
  # dpkg-query fails when it has never heard of one of them; it still lists the others.
  installed=$( (dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true) | sed -n 's/^installed //p' | tr '\n' ' ')
  installed=" $installed"
  for package in "$@"; do
    [[ $installed == *" $package "* ]] || echo "$package"
  done
}

setup_apt() {
  local list missing
  list=$(missing_apt "$@")
  [ -n "$list" ] || return 0
  mapfile -t missing <<<"$list"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    die "not root and no sudo here; as root, run: apt-get install ${missing[*]}"
  fi
  local options=(-y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Acquire::http::Timeout=30)
  say "updating apt's package lists"
  # A third-party list that fails need not matter: the install below decides.
  quietly as_root apt-get update "${options[@]}" || say "apt-get update reported an error; going on with the lists at hand"
  local removal=--no-remove replaced
  replaced=$(apt-get install -s --no-install-recommends "${missing[@]}" 2>/dev/null | sed -n 's/^Remv \([^ ]*\).*/\1/p' || true)
  if [ -n "$replaced" ] && ! grep -qvE '^(libc\+\+1|libc\+\+abi1|libunwind)-[0-9]+$' <<<"$replaced"; then
    # Two versions of LLVM's C++ runtime cannot stand side by side; only --ci wants one.
    say "replacing ${replaced//$'\n'/ } by version 19"
    removal=
  fi
  say "installing ${missing[*]}"
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends \
    ${removal:+"$removal"} "${options[@]}" "${missing[@]}" || explain_failure "apt-get install"
}

setup_brew() {
  xcode-select -p >/dev/null 2>&1 || die "no compiler: run 'xcode-select --install', then this again"
  local prefix missing=() package
  prefix=$(brew --prefix)
  for package in "$@"; do
    [ -e "$prefix/opt/$package" ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing with Homebrew: ${missing[*]}"
  quietly env NONINTERACTIVE=1 HOMEBREW_NO_ENV_HINTS=1 brew install "${missing[@]}" || explain_failure "brew install"
}

node_is_current() {
  local version
  version=$(node --version 2>/dev/null) || return 1
  version=${version#v}
  [ "${version%%.*}" -ge 20 ]
}

# Debian 12 has node 18. Its npm fetches a newer one into build/tools, where the Makefile finds it.
setup_node() {
  export PATH="$PWD/build/tools/node_modules/.bin:$PATH"
  node_is_current && return 0
  command -v npm >/dev/null || setup_apt nodejs npm
  say "installing node 20 into build/tools"
  mkdir -p build/tools
  quietly npm install --prefix build/tools --no-audit --no-fund node@20 || explain_failure "npm install node@20"
  node_is_current || die "node 20 or newer is needed, found $(node --version 2>/dev/null || echo none)"
}

setup_oracle() {
  [ -e "$oracle/package-lock.json" ] || return 0
  [ "$oracle/node_modules/.package-lock.json" -nt "$oracle/package-lock.json" ] && return 0
  say "installing the node packages of $oracle"
  quietly npm ci --prefix "$oracle" --ignore-scripts --no-audit --no-fund || explain_failure "npm ci"
  touch "$oracle/node_modules/.package-lock.json"
}

main() {
  local ci=false
  case "${1:-}" in
    "") ;;
    --ci) ci=true ;;
    *) die "unknown argument '$1' (usage: scripts/setup.sh [--ci])" ;;
  esac
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT

  if [ "$(uname -s)" = Darwin ]; then
    command -v brew >/dev/null || die "Homebrew is needed: see https://brew.sh, then run this again"
    setup_brew "${brew_packages[@]}"
    $ci && setup_brew node
  elif command -v apt-get >/dev/null; then
    $ci && apt_packages+=("${apt_ci_packages[@]}")
    setup_apt "${apt_packages[@]}"
    $ci && setup_node
  else
    say "neither apt-get nor brew here; going on without (needed, by Debian's names: ${apt_packages[*]})"
  fi
  $ci && setup_oracle
  return 0
}

main "$@"
