#!/usr/bin/env bash
# One training stage in one process on this machine, on all of its devices:
#   launch/local.sh CONFIG [flags of train]
# Launching many processes and many hosts comes with the scale issue.
set -eu
if [ $# -lt 1 ]; then
  echo "usage: launch/local.sh CONFIG [flags of train]" >&2
  exit 2
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
exec "$python" -m dalle_jax train "$@"
