#!/bin/sh
# template_oracle.sh COMPARE_PROGRAM MODEL_DIRECTORY: exit code 77 means skipped.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
skip() {
  echo "SKIPPED: $1"
  exit 77
}
command -v node >/dev/null || skip "node is not installed (version 20 or later is needed)"
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 20 ] || skip "node $major is too old, version 20 or later is needed"
[ -d "$here/node_modules/@huggingface/jinja" ] || skip "no node_modules; run tests/text/oracle/install.sh"
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
node "$here/template_oracle.mjs" "$2/chat_template.jinja" 200 >"$lines"
"$1" "$2" "$lines"
