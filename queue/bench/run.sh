#!/usr/bin/env bash
# Measures the queue beside goqite, River and a plain writer; arguments go to the program (-d 2s -rounds 3 -only ...).
# Exits 1 when a figure is missed. The module stands outside the workspace, so that nobody inherits the anchors.
set -euo pipefail
cd "$(dirname "$0")"
export GOWORK=off
bin=$(mktemp)
trap 'rm -f "$bin"' EXIT
go build -o "$bin" .
"$bin" "$@"
