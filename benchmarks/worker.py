"""One side of a comparison: a process pinned to some cores, which builds and calls cases on request.

    python worker.py FILE --cores 0,1

FILE is a Python file with ``CASES: dict[str, Callable[[], Callable[[], None]]]``: each entry builds its case and
returns a function that does one call of it and returns when the work is done (``block_until_ready``). Requests and
answers are lines of JSON on standard input and on the descriptor that was standard output; cases print to
standard error. Standard library only, since it runs in both environments.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from dalle_jax.commands.memory import keep_large_buffers  # standard library only

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "torch", "diffusers", "dalle-pytorch", "min-dalle", "transformers", "numpy",
    "pillow", "webdataset",
)  # fmt: skip


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load(path: Path):
    """Import the file as a module; its folder and the repository's root become importable."""
    sys.path[:0] = [str(path.parent), str(path.parent.parent)]
    spec = importlib.util.spec_from_file_location("benchmark_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Worker:
    """The answers to requests, and the case that was built last."""

    def __init__(self, module, threads: int):
        self.module, self.threads = module, threads
        self.call = None

    def about(self) -> dict:
        return {"versions": versions(), "threads": self.threads, "cores": sorted(os.sched_getaffinity(0))}

    def build(self, case: str) -> dict:
        """Build a case and call it once, since the first call compiles."""
        self.call = None
        start = time.perf_counter()
        call = self.module.CASES[case]()
        built, cpu = time.perf_counter(), time.process_time()
        call()
        first = time.perf_counter()
        self.call = call
        return {
            "build_seconds": built - start,
            "first_call_seconds": first - built,
            "first_call_cpu_seconds": time.process_time() - cpu,
        }

    def run(self, calls: int) -> dict:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            self.call()
        return {
            "seconds": (time.perf_counter() - wall) / calls,
            "cpu_seconds": (time.process_time() - cpu) / calls,
        }


def serve(worker: Worker, requests, answers) -> None:
    for line in requests:
        request = json.loads(line)
        method = getattr(worker, request.pop("do"))
        try:
            answer = method(**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Pin the process and its threads to the cores, load FILE, then answer requests until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--cores", required=True)
    options = parser.parse_args()
    cores = {int(core) for core in options.cores.split(",")}
    os.sched_setaffinity(0, cores)  # before jax or torch are imported: both size their thread pools by it
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(len(cores))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_large_buffers()
    module = load(options.file.resolve())
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(len(cores))
    serve(Worker(module, len(cores)), sys.stdin, answers)


if __name__ == "__main__":
    main()
