"""Comparison with another package (the peer): two processes on the same cores, which run in turn.

A benchmark is two files: ours (``CASES`` and ``main(...)``) and the peer's (``CASES`` alone, see worker.py). While one
side works, the other waits on a pipe. A round is one turn of each. Its ratio is the peer's time divided by ours, so 1.3
means that we are 1.3 times as fast. The result is the median over the rounds, with minimum and maximum. The same ratio
of CPU seconds is also given, for machines that have other work.

    python benchmarks/tokenizer_step.py [--cores 0] [--rounds 9] [--only NAME] [--peer-python PATH]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEER_PYTHON = HERE.parent / ".venv-bench" / "bin" / "python"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""The setting of the C library with which ``make demo`` runs, if the kernel grants huge pages."""
PAUSE = 0.05  # seconds between turns, for the other side's spinning threads to fall asleep


@dataclass(frozen=True)
class Case:
    """One comparison of two cases of the same name, or of our case ``name`` with the peer's case ``peer``.

    ``calls`` is the number of calls in one turn of (ours, peer). ``units`` is the work of one call of (ours, peer), in
    ``unit``, if they differ. ``least`` and ``aim`` are the required and the desired ratio. ``warm_up`` is the number of
    rounds that are not counted.
    """

    name: str
    title: str
    least: float
    aim: float
    peer: str | None = None
    calls: tuple[int, int] = (1, 1)
    units: tuple[float, float] = (1.0, 1.0)
    unit: str = "calls"
    rounds: int | None = None
    warm_up: int = 2
    note: str = ""


class Side:
    """A worker process and its pipe."""

    def __init__(self, python: Path | str, file: Path, cores: str):
        command = [str(python), str(HERE / "worker.py"), str(file), "--cores", cores]
        environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1", "GLIBC_TUNABLES": HUGE_PAGES,
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request) -> dict:
        """Send a request to the side's process as a line of JSON, and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"benchmark worker ended early: {' '.join(map(str, self.process.args))}")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"benchmark worker failed on {request}:\n{answer['error']}")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(case: Case, ours: Side, peer: Side, rounds: int) -> dict:
    """Build the case on both sides, warm both up and run them in turn."""
    ours_built = ours.ask(do="build", case=case.name)
    peer_built = peer.ask(do="build", case=case.peer or case.name)
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    ratios, cpu_ratios = [], []
    for index in range(-case.warm_up, rounds):
        pair, cpu = {}, {}
        for name, side, calls, units in zip(("ours", "peer"), (ours, peer), case.calls, case.units, strict=True):
            time.sleep(PAUSE)
            answer = side.ask(do="run", calls=1 if index < 0 else calls)
            pair[name], cpu[name] = answer["seconds"] / units, answer["cpu_seconds"] / units
        if index >= 0:
            for name, seconds in pair.items():
                times[name].append(seconds)
            ratios.append(pair["peer"] / pair["ours"])
            cpu_ratios.append(cpu["peer"] / cpu["ours"])
    steady = statistics.median(times["ours"]) * case.units[0]
    return {
        **asdict(case),
        "rounds": rounds,
        "ratio": spread(ratios),
        "cpu_ratio": spread(cpu_ratios),
        "seconds_per_unit": {name: spread(values) for name, values in times.items()},
        "ours_built": ours_built,
        "peer_built": peer_built,
        "compile_seconds": max(0.0, ours_built["first_call_seconds"] - steady),
        "compile_cpu_seconds": ours_built["first_call_cpu_seconds"],
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def table(results: list[dict]) -> str:
    heads = ("case", "ours", "peer", "ratio: median (min..max)", "of CPU seconds", "target", "compile")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        ours, peer = (result["seconds_per_unit"][name]["median"] for name in ("ours", "peer"))
        ratio = result["ratio"]
        per = "" if result["unit"] == "calls" else f" a {result['unit'].removesuffix('s')}"
        rows.append(
            f"| {result['title']} | {ours * 1e3:.4g} ms{per} | {peer * 1e3:.4g} ms{per} "
            f"| **{ratio['median']:.2f}** ({ratio['min']:.2f}..{ratio['max']:.2f}) "
            f"| {result['cpu_ratio']['median']:.2f} | {result['least']:g} (aim {result['aim']:g}) "
            f"| {result['compile_seconds']:.1f} s |"
        )
    notes = [f"- {result['title']}: {result['note']}" for result in results if result["note"]]
    return "\n".join([*rows, *notes])


def main(name: str, file: str, peer_file: str, cases: list[Case]) -> None:
    """Run the command line of one benchmark: print the table and write results/NAME.json."""
    parser = argparse.ArgumentParser(description=f"{name}: dalle_jax against another package on the same cores")
    parser.add_argument("--cores", default="0", help="such as 0 or 0,1; both sides get as many threads")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of a case that does not name its own number")
    parser.add_argument("--only", action="append", help="the name of a case; may be given more than once")
    parser.add_argument("--peer-python", default=os.environ.get("DALLE_JAX_PEER_PYTHON", str(PEER_PYTHON)))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if not Path(options.peer_python).exists():
        raise SystemExit(f"no environment of the peer at {options.peer_python}: `make bench` makes it (see README.md)")
    chosen = [case for case in cases if not options.only or case.name in options.only]
    ours = Side(sys.executable, Path(file).resolve(), options.cores)
    peer = Side(options.peer_python, HERE / peer_file, options.cores)
    try:
        machine = {"cpu": cpu_model(), "ours": ours.ask(do="about"), "peer": peer.ask(do="about")}
        results = []
        for case in chosen:
            results.append(compare(case, ours, peer, rounds=case.rounds or options.rounds))
            print(table(results[-1:]), flush=True)
    finally:
        ours.close()
        peer.close()
    options.results.mkdir(parents=True, exist_ok=True)
    report = {"benchmark": name, "date": time.strftime("%Y-%m-%d"), "machine": machine, "results": results}
    (options.results / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{name} on {machine['cpu']}, cores {options.cores}\n{table(results)}")
