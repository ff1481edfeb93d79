#!/bin/sh
# Pin requirements/*.in: versions and hashes of every file of each, and nothing of where they came from.
set -eu
cd "$(dirname "$0")/../requirements"

uv=../.cache/lock/bin/uv
if [ ! -x "$uv" ]; then
  python3 -m venv ../.cache/lock
  ../.cache/lock/bin/pip -qq install uv
fi
for name in verifier host dev build; do  # build.in is constrained by dev.txt, so it comes last
  "$uv" --no-config pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate \
    --python-version 3.11 --python-platform x86_64-unknown-linux-gnu "$name.in" -o "$name.txt"
done
