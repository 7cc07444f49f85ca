#!/usr/bin/env bash
# Run one command on a TPU slice by queued resources: create the slice, install, and run on all of its workers.
# A preempted slice is created again, until the run has ended. Up to v6e; for newer TPUs use GKE (gke_jobset.yaml).
#   NAME=dalle ZONE=us-east5-a TYPE=v5p-128 launch/tpu_vm.sh CONFIG --out gs://BUCKET/runs/NAME [flags of train]
# Optional: PROJECT, RUNTIME (default v2-alpha-tpuv5, for v5p), SPOT=1, REPOSITORY and REVISION (to clone on the workers), POLL
# (default 30 s), KEEP=1 (keep the slice at the end), DALLE_JAX_COMMAND=sample, evaluate or encode (its flags replace CONFIG).
set -eu
if [ $# -lt 1 ] || [ -z "${NAME:-}" ] || [ -z "${ZONE:-}" ] || [ -z "${TYPE:-}" ]; then
  echo "usage: NAME=... ZONE=... TYPE=... launch/tpu_vm.sh CONFIG [flags of train]" >&2
  exit 2
fi
poll="${POLL:-30}"
repository="${REPOSITORY:-$(git config --get remote.origin.url)}"
revision="${REVISION:-$(git rev-parse HEAD)}"
where=(--zone "$ZONE")
if [ -n "${PROJECT:-}" ]; then where+=(--project "$PROJECT"); fi
kind=()
if [ -n "${SPOT:-}" ]; then kind+=(--spot); fi

resource() { gcloud compute tpus queued-resources "$1" "$NAME" "${where[@]}" "${@:2}"; }
state() { resource describe --format 'value(state.state)' 2>/dev/null || echo NONE; }
workers() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker all --command "$1"; }
remove() { resource delete --quiet --force || true; }

create() {
  resource create --node-id "$NAME" --accelerator-type "$TYPE" --runtime-version "${RUNTIME:-v2-alpha-tpuv5}" \
    ${kind[@]+"${kind[@]}"}
}

wait_until_active() {
  while :; do
    case "$(state)" in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | SUSPENDING) return 1 ;;
      *) sleep "$poll" ;;
    esac
  done
}

printf -v arguments ' %q' "$@"
# shellcheck disable=SC2016  # expanded on the workers
setup="set -e; [ -d dalle_jax ] || git clone $(printf %q "$repository") dalle_jax; cd dalle_jax; git fetch -q; \
git checkout -q $(printf %q "$revision"); [ -d .venv ] || python3 -m venv .venv; \
.venv/bin/pip install -q -c constraints.txt -e '.[tpu,gcs]'"

while :; do
  case "$(state)" in
    NONE) create ;;
    FAILED | SUSPENDED | SUSPENDING)
      remove
      create
      ;;
  esac
  if ! wait_until_active; then
    sleep "$poll"
    continue
  fi
  code=0
  { workers "$setup" && workers "cd dalle_jax && .venv/bin/python -m dalle_jax ${DALLE_JAX_COMMAND:-train}$arguments"; } || code=$?
  if [ "$code" -eq 0 ] || [ "$(state)" = ACTIVE ]; then break; fi # ended, or failed without a preemption
  echo "the slice was preempted; creating it again to resume from the newest checkpoint" >&2
done
if [ -z "${KEEP:-}" ]; then remove; fi
exit "$code"
