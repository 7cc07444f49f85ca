"""The training step of a billion-parameter DALL·E 1 on the accelerator of this machine: its time, MFU, HFU and profile.

    python benchmarks/accelerator_step.py [--only NAME ...] [--seconds 300] [--out benchmarks/results]

The step is the one that ``train configs/runs/dalle1_1b.gin`` runs. Random tokens and codes are on the device, so no
step waits for data. Each case runs in a separate process; after ``--seconds`` no further one is started. The first
three steps of a case are not counted. MFU is printed twice: from model FLOPs as train/flops.py counts them (attention
over all pairs), and from 6 N per token, where N counts the parameters without the embedding tables.
``--profile NAME`` traces three more steps of a case and sums the device's time by kind of work.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/runs/dalle1_1b.gin"
CUDNN, FULL = "task.model.backend='cudnn'", ("task.model.attention=('full',)", "task.model.last_attention=None")
CASES = {
    "sparse_cudnn": (CUDNN,),
    "sparse_scan": (CUDNN, "task.model.scan=True"),
    "full_cudnn": (CUDNN, *FULL),
    "full_cudnn_heads_of_128": (CUDNN, *FULL, "task.model.heads=16", "task.model.head_size=128"),
    "sparse_xla": ("task.model.backend='xla'", "task.model.remat='attention'", "data.batch_size=16"),
    "sparse_remat": (CUDNN, "task.model.remat='full'", "task.model.scan=True"),
}
"""Fields that each case sets in the config."""
WARM, TIMED = 3, 10

KINDS = (
    ("attention", r"fmha|flash|sdpa|attention|cudnn"),
    ("matrix products", r"gemm|nvjet|cutlass|cublas|matmul|dot"),
    ("copies and transposes", r"memcpy|copy|transpose|concatenate|slice"),
    ("reductions (norms, sums of biases, softmax)", r"reduce"),
    ("elementwise work (optimizer, GELU, residuals)", r"fusion|loop|select|convert|multiply|add|wrapped"),
)
"""Kinds of work by the names of kernels, the first that matches."""


def measure(name: str, profile: bool, config: str, extra: list[str]) -> dict:
    """Measure one case in this process."""
    import jax
    import numpy as np

    from dalle_jax.config.bind import load
    from dalle_jax.parallel.chips import chip_of
    from dalle_jax.parallel.layout import Layout
    from dalle_jax.parallel.mesh import make_mesh
    from dalle_jax.runs import TrainRun
    from dalle_jax.train.compiled import CompiledTask

    run: TrainRun = load(config, TrainRun, [*CASES[name], *extra])
    layout = Layout(make_mesh(run.mesh, jax.devices()), run.rules)
    compiled = CompiledTask(run.task.open_for_plan(), run.trainer, layout)
    size, random = run.data.batch_size, np.random.default_rng(0)
    batch = layout.put_batch(
        {
            field: random.integers(1, most, spec.shape).astype(np.int32)
            for (field, spec), most in zip(
                sorted(run.task.batch_spec(size).items()),
                (run.task.model.codebook_size, run.task.model.text_vocab),
                strict=True,
            )
        }
    )
    device = jax.devices()[0]
    began = time.monotonic()
    state = compiled.state_spec.init_sharded(layout, 0)
    sums = None
    for _ in range(WARM):
        state, sums = compiled.step(state, sums, batch)
    jax.block_until_ready(state)
    warm = time.monotonic() - began
    began = time.monotonic()
    for _ in range(TIMED):
        state, sums = compiled.step(state, sums, batch)
    jax.block_until_ready(state)
    seconds = (time.monotonic() - began) / TIMED
    model, hardware = compiled.flops(size)
    chip = chip_of(device.device_kind)
    tokens = size * (run.task.model.text_length + int(np.prod(run.task.model.grid)))
    parameters = sum(value.size for value in state.learned.params.values())
    tables = sum(v.size for n, v in state.learned.params.items() if "embedding" in n or "positions" in n)
    peak = chip.flops * jax.device_count() if chip else None
    six = 6 * (parameters - tables) * tokens
    found = {
        "case": name,
        "set": [*CASES[name], *extra],
        "device": device.device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "batch": size,
        "tokens": tokens,
        "parameters": parameters,
        "parameters_in_products": parameters - tables,
        "first_steps_seconds": round(warm, 2),
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "loss": float(sums["loss"][0] / sums["loss"][1]),
        "model_flops": model,
        "hardware_flops": hardware,
        "peak_flops": peak,
        "mfu_6n": six / seconds / peak if peak else None,
        "mfu": model / seconds / peak if peak and model else None,
        "hfu": hardware / seconds / peak if peak and hardware else None,
        "memory_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
    }
    return found | ({"profile": traced(compiled, state, sums, batch)} if profile else {})


def traced(compiled, state, sums, batch, steps: int = 3) -> dict:
    """Return the device time of a step by kind of work, in ms, and the kernels that take most."""

    def run() -> object:
        nonlocal state, sums
        for _ in range(steps):
            state, sums = compiled.step(state, sums, batch)
        return state

    return by_kind(kernel_times(run), steps)


def kernel_times(run: Callable[[], object]) -> Counter[str]:
    """Trace a call and return the nanoseconds of each kernel on the device; on a CPU there are none."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        kernels: Counter[str] = Counter()
        for plane in data.planes:
            if "device:gpu" in plane.name.lower() or "device:tpu" in plane.name.lower():
                for line in plane.lines:
                    if "stream" in line.name.lower() or line.name == "XLA Ops":
                        for event in line.events:
                            kernels[event.name] += event.duration_ns
    return kernels


def by_kind(kernels: Counter[str], steps: int) -> dict:
    """Return the ms of each kind of work in one of ``steps`` steps, and the 25 kernels that take most."""
    kinds: Counter[str] = Counter()
    for name, spent in kernels.items():
        kind = next((kind for kind, words in KINDS if re.search(words, name, re.IGNORECASE)), "other")
        kinds[kind] += spent
    return {
        "milliseconds_of_a_step": {kind: round(spent / steps / 1e6, 4) for kind, spent in kinds.most_common()},
        "kernels": [[name[:160], round(spent / steps / 1e6, 4)] for name, spent in kernels.most_common(25)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="cases, by name", default=list(CASES))
    parser.add_argument("--profile", nargs="*", default=[], help="cases to trace too")
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--set", nargs="*", default=[], help="fields to set in every case")
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no further case is begun")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.one in args.profile, args.config, args.set)))
        return
    began, results = time.monotonic(), []
    for name in args.only:
        if time.monotonic() - began > args.seconds:
            print(json.dumps({"case": name, "status": "left out"}), flush=True)
            continue
        command = [sys.executable, __file__, "--one", name, "--config", args.config]
        command += ["--profile", *args.profile, "--set", *args.set]
        environment = os.environ | {"PYTHONPATH": path()}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            print(f"{name}: failed\n" + "\n".join(said[-15:]), file=sys.stderr, flush=True)
            print(json.dumps({"case": name, "status": "failed", "error": said[-1] if said else ""}), flush=True)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        results.append(found)
        print(json.dumps({k: v for k, v in found.items() if k != "profile"}), flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "accelerator_step.json").write_text(json.dumps(results, indent=1) + "\n")


def path() -> str:
    """Return PYTHONPATH with this tree first."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))


if __name__ == "__main__":
    main()
