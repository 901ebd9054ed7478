#!/bin/sh
# Installs the pinned reference packages into node_modules here; the oracle tests are skipped without them.
set -eu
cd "$(dirname "$0")"
exec npm ci --ignore-scripts --no-audit --no-fund
