"""Generation and sparse attention on one accelerator, in one call of a limited time: a table and lines of JSON.

    python benchmarks/accelerator_sampling.py --minutes 9

It runs its parts one after another, each in its own process, and stops a part that reaches the end of its time:

    dalle1_1b     cached generation at the sizes of configs/runs/dalle1_1b.gin (timed_decoding.py)
    llamagen_xl   the same for configs/runs/llamagen_t2i_xl.gin
    attention     the attention of one layer in training, by kind and backend (timed_attention.py)
    training      the training step of dalle1_1b with sparse and with full attention (accelerator_step.py)

Rows are written to ``accelerator_sampling.jsonl`` and printed as they come, so a call that is stopped loses only one
case. What a part does not use of its time is left to the next ones. The codes per pass of a window are not measured,
since the weights are random: ``--windows`` gives those of a trained model.
"""

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
FILE = "accelerator_sampling.jsonl"
DEMO = 63 / 14.3
"""Codes per pass of configs/demo/dalle.gin, guidance 2, window 16, slots kept full (docs/python.md)."""
LAST_STEP_SECONDS, STOP_SECONDS = 70.0, 5.0
"""The seconds of a training case, and those between the end of a part's last case and the stop."""

Row = dict[str, str | int | float | None]

TINY_DALLE = (
    "task.model.width=16", "task.model.depth=2", "task.model.heads=2", "task.model.head_size=8", "task.model.kernel=3",
    "task.model.text_vocab=32", "task.model.text_length=4", "task.model.codebook_size=16", "task.model.grid=(4, 4)",
    "task.model.attention=('row','column')", "task.model.last_attention=None",
)  # fmt: skip
TINY_LLAMAGEN = (
    "task.model.width=16", "task.model.depth=2", "task.model.heads=2", "task.model.multiple_of=8",
    "task.model.codebook_size=16", "task.model.grid=(4, 4)", "task.model.condition.length=3",
    "task.model.condition.width=8",
)  # fmt: skip
TINY_STEP = (*TINY_DALLE, "data.batch_size=2", "task.model.backend='xla'")


@dataclass(frozen=True)
class Part:
    """A command that prints rows, and the share of the time until which it may run.

    ``arguments`` takes the seconds within which the last case ends.
    """

    name: str
    until: float
    arguments: Callable[[float], Sequence[str]]


def parts(out: Path, windows: Sequence[str], tiny: bool) -> list[Part]:
    """Return the parts in their order."""
    small = ("--batches", "1x1", "2x1", "--profile", "2x1", "--copy", str(2**20)) if tiny else ("--profile", "64x1")

    def decoding(config: str, sizes: Sequence[str], seconds: float) -> list[str]:
        fields = ("--set", *sizes) if tiny else ()
        return ["timed_decoding.py", config, "--seconds", str(seconds), "--windows", *windows, *small, *fields]

    def training(seconds: float) -> list[str]:
        begin = ["--seconds", str(max(0.0, seconds - LAST_STEP_SECONDS)), "--out", str(out)]
        fields = ("--set", *TINY_STEP) if tiny else ()
        cases = ("--only", "sparse_cudnn", "full_cudnn", "--profile", "sparse_cudnn")
        return ["accelerator_step.py", *cases, *begin, *fields]

    return [
        Part("dalle1_1b", 0.38, lambda seconds: decoding("configs/runs/dalle1_1b.gin", TINY_DALLE, seconds)),
        Part("llamagen_xl", 0.65, lambda seconds: decoding("configs/runs/llamagen_t2i_xl.gin", TINY_LLAMAGEN, seconds)),
        Part(
            "attention", 0.73,
            lambda seconds: ["timed_attention.py", "--seconds", str(seconds), *(("--tiny",) if tiny else ())],
        ),
        Part("training", 1.0, training),
    ]  # fmt: skip


def relay(command: Sequence[str], seconds: float, errors: TextIO, take: Callable[[Row], None]) -> str:
    """Run a command, hand on each line of JSON, and return how it ended: "ended", "stopped" or "failed".

    After ``seconds`` the command is killed, with the processes that it started.
    """
    environment = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, process_group=0
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("{"):
                take(json.loads(line))
    except BaseException:
        stop()
        raise
    finally:
        code = process.wait()
        timer.cancel()
    return "stopped" if stopped.is_set() else "failed" if code else "ended"


def columns(row: Row) -> list[str]:
    """Format a row of any part for the table."""

    def number(key: str, scale: float = 1.0, form: str = ".3g") -> str:
        value = row.get(key)
        return format(value * scale, form) if isinstance(value, int | float) else "-"

    case = str(row["case"])
    if "prompts" in row:
        case += f", {row['prompts']}x{row['candidates']}"
    if "bandwidth" in row:
        case += f", {number('bandwidth', 1e-12)} TB/s"
    time_of = next((key for key in ("pass_seconds", "step_seconds", "seconds") if key in row), "")
    milliseconds = number(time_of, 1e3)
    if "forward_seconds" in row:
        milliseconds += f" (forward {number('forward_seconds', 1e3)})"
    rate = "codes_per_second" if "codes_per_second" in row else "tokens_per_second"
    return [
        str(row["part"]), case, milliseconds, number(rate, 1, ",.0f"), number("bandwidth_share", 100),
        number("flops_share" if "flops_share" in row else "mfu", 100), number("accepted"),
        number("compile_seconds" if "compile_seconds" in row else "first_steps_seconds"),
        str(row["status"]),
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Format rows as a table of Markdown."""
    heads = ("part", "case", "ms", "per second", "% of copy", "% of FLOP/s", "codes a pass", "compile s", "status")
    lines = [heads, ["---"] * len(heads), *map(columns, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(listed: Sequence[Part], seconds: float, out: Path) -> list[Row]:
    """Run the parts within ``seconds``, the last one to their end; write and print each row as it comes."""
    began, rows = time.monotonic(), []
    out.mkdir(parents=True, exist_ok=True)
    with (out / FILE).open("w") as file, (out / "accelerator_sampling.log").open("w") as errors:

        def keep(part: Part, row: Row) -> None:
            rows.append({"part": part.name, "status": "measured", **row})
            print(json.dumps(rows[-1]), file=file, flush=True)
            print("  ".join(columns(rows[-1])), flush=True)

        for part in listed:
            left = began + part.until / listed[-1].until * seconds - time.monotonic()
            if left <= STOP_SECONDS:
                keep(part, {"case": "all", "status": "left out"})
                continue
            script, *arguments = part.arguments(left - STOP_SECONDS)
            command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
            ending = relay(command, left, errors, functools.partial(keep, part))
            if ending != "ended":
                keep(part, {"case": "the rest", "status": ending})
    return rows


def main() -> None:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="within which the script ends (default 9)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes and a window of 4, for a test on a CPU")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts (default all)")
    parser.add_argument(
        "--windows", nargs="+", metavar="W:CODES", default=[f"16:{DEMO:.3f}"],
        help="codes per pass, and of them the codes that a trained model accepts (default %(default)s)",
    )  # fmt: skip
    folder = Path(os.environ.get("OUT") or ROOT / "runs" / "accelerator_sampling")
    parser.add_argument("--out", type=Path, default=folder, help="folder of the results (default %(default)s)")
    args = parser.parse_args()
    listed = parts(args.out, ["4:2"] if args.tiny else args.windows, args.tiny)
    unknown = sorted(set(args.only or ()) - {part.name for part in listed})
    if unknown:
        parser.error(f"--only: expected {', '.join(part.name for part in listed)}, got {', '.join(unknown)}")
    rows = run([part for part in listed if part.name in (args.only or [part.name])], 60 * args.minutes, args.out)
    print(table(rows))
    print(
        "Codes per pass of a window are not measured here, since the weights are random: they are given by --windows."
    )
    if not args.tiny and args.windows == parser.get_default("windows"):
        print("The default is of configs/demo/dalle.gin: 14.3 passes for 63 codes in full slots (docs/python.md).")


if __name__ == "__main__":
    main()
