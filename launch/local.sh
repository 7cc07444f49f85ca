#!/usr/bin/env bash
# Run one command as N processes on this machine, with one GPU each if there are at least N.
# With CUDA_VISIBLE_DEVICES, they share the GPUs that it lists:
#   launch/local.sh N CONFIG [flags of train]
#   DALLE_JAX_COMMAND=sample launch/local.sh N --mesh data=-1 [flags of sample]
# If a process fails, the others are ended too. Ctrl-C and SIGTERM reach all processes, which save the same step.
set -eu
if [ $# -lt 2 ] || ! [ "$1" -ge 1 ] 2>/dev/null; then
  echo "usage: launch/local.sh N CONFIG [flags of train]" >&2
  exit 2
fi
if [ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -lt 51 ]; then
  echo "launch/local.sh needs bash 5.1 or newer, but this is bash $BASH_VERSION" >&2
  exit 2
fi
processes=$1
shift
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
else
  count="$(command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | wc -l || echo 0)"
  gpus=()
  for ((gpu = 0; gpu < count; gpu++)); do gpus+=("$gpu"); done
fi
port="$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
export DALLE_JAX_COORDINATOR="127.0.0.1:$port" DALLE_JAX_PROCESSES="$processes"

children=()
tell() { kill -s "$1" "${children[@]}" 2>/dev/null || true; }
trap 'tell TERM' TERM INT

for ((process = 0; process < processes; process++)); do
  if [ "$processes" -gt 1 ] && [ "${#gpus[@]}" -ge "$processes" ]; then export CUDA_VISIBLE_DEVICES="${gpus[process]}"; fi
  DALLE_JAX_PROCESS="$process" "$python" -m dalle_jax "${DALLE_JAX_COMMAND:-train}" "$@" &
  children+=($!)
done

code=0
for ((left = processes; left > 0; left--)); do
  ended_process=
  while [ -z "$ended_process" ]; do # wait names no process when the trap interrupted it
    wait -n -p ended_process "${children[@]}" 2>/dev/null && ended=0 || ended=$?
    ended_process="${ended_process:-}"
    [ "$ended" -eq 127 ] && break
  done
  if [ "$ended" -ne 0 ] && [ "$code" -eq 0 ]; then
    code=$ended
    tell KILL
  fi
done
exit "$code"
