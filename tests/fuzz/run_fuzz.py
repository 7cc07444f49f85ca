"""``make fuzz``: read mutated files of every kind, and list those that a reader does not refuse by its own errors.

A worker process reads one input after the other. The parent starts a new one after a crash or a hang, at the next
input. An input is determined by the seed and its number, so that ``--only NUMBER`` repeats it. Faults are:

- a traceback: an error that is none of ``EXPECTED``;
- an execution: an audit event of a started program, or of code that is not in a file of the environment;
- memory: more than 3 times the file's size beyond 64 MiB, and for images 16 bytes a pixel;
- time: more than 20 s of the processor;
- the end of the process.
"""

import argparse
import collections
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dalle_jax.__main__ import USER_ERRNOS
from dalle_jax.untrusted import FREE_BYTES, MEMORY_RATIO
from tests.fuzz.checkpoint_targets import checkpoint_targets
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import EXPECTED, Target, all_targets, chosen
from tests.fuzz.text_targets import text_targets

MAX_SECONDS = 20
MAX_MESSAGE = 50_000
"""Largest number of characters of an error. A config's has up to 50 lines."""
HANG_SECONDS = 600
"""Seconds without a new input after which a worker is ended. A busy machine may give it little of the processor."""
IN_MEMORY = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)
"""A folder in memory, where folders are made and removed in no time, or None for the usual one."""
STARTED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect")


@dataclass(frozen=True)
class Fault:
    """An input that was not read or refused as it should be."""

    number: int
    target: str
    kind: str
    reason: str


class Guard:
    """An audit hook that notes started programs and code that is run, while ``armed``."""

    def __init__(self) -> None:
        self.armed, self.seen = False, list[str]()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.armed and (event in STARTED or (event == "exec" and not _in_a_file(arguments))):
            self.seen.append(f"{event} {arguments!r:.100}")


def _in_a_file(arguments: tuple[object, ...]) -> bool:
    """Return whether executed code comes from a module's file, as that of a late import."""
    name = getattr(arguments[0], "co_filename", "")
    return name.startswith("<frozen") or os.path.isfile(name)


def _peak_bytes(reset: bool) -> int:
    """Return the process's resident memory, at its peak since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def read_input(target: Target, content: bytes, place: Path, guard: Guard, armed: bool = True) -> tuple[str, str] | None:
    """Write a file and read it. Return the kind of fault and the reason, or None."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    path = place / target.file
    target.write(path, content)
    before, started, error = _peak_bytes(reset=True), time.process_time(), None
    guard.seen.clear()
    guard.armed = armed
    try:
        target.read(path)
    except EXPECTED as refused:
        if len(str(refused)) > MAX_MESSAGE:
            error = ("message", f"an error of {len(str(refused))} characters")
    except BaseException as unexpected:
        if not (isinstance(unexpected, OSError) and unexpected.errno in USER_ERRNOS):
            place_of = traceback.extract_tb(unexpected.__traceback__)[-1]
            error = ("traceback", f"{unexpected!r:.200} at {place_of.filename}:{place_of.lineno}")
    guard.armed = False
    seconds, memory = time.process_time() - started, _peak_bytes(reset=False) - before
    allowed = FREE_BYTES + MEMORY_RATIO * len(content) + target.memory(content)
    if guard.seen:
        return "execution", guard.seen[0]
    if error is None and memory > allowed:
        return "memory", f"{memory} bytes for a file of {len(content)}, at most {allowed}"
    if error is None and seconds > MAX_SECONDS:
        return "time", f"{seconds:.0f} s"
    return error


def work(seed: int, numbers: Sequence[int], log: Callable[[dict[str, object]], None]) -> None:
    """Read the inputs of these numbers; ``log`` gets a line before each input and for each fault."""
    guard = Guard()
    with tempfile.TemporaryDirectory(prefix="dalle-jax-fuzz-", dir=IN_MEMORY) as name:
        folder = Path(name)
        targets = [*all_targets(folder), *checkpoint_targets(folder), *text_targets(folder)]
        for target, armed in itertools.product(targets, (False, True)):  # the valid files; at first imports come late
            for content in target.seeds:
                if fault := read_input(target, content, folder / "place", guard, armed):
                    log({"fault": [-1, target.name, *fault]})
        for number in numbers:
            target, rng = chosen(targets, seed, number)
            log({"at": number, "target": target.name})
            others = [one for other in targets for one in other.seeds if len(one) < 1 << 16]
            content = mutated(rng.choice(target.seeds), others, rng)
            if fault := read_input(target, content, folder / "place", guard):
                log({"fault": [number, target.name, *fault]})
        if (folder / "canary").exists():
            log({"fault": [-1, "", "execution", "a file that a pickle's command makes"]})


def run(seed: int, first: int, count: int, report: Path) -> list[Fault]:
    """Read ``count`` inputs in worker processes. Return the faults, which are appended to ``report`` too."""
    faults: list[Fault] = []
    at, end = first, first + count
    while at < end:
        command = [sys.executable, "-m", "tests.fuzz.run_fuzz", "--worker", "--seed", str(seed)]
        command += ["--first", str(at), "--count", str(min(end - at, 10_000))]
        with tempfile.TemporaryFile() as errors, tempfile.NamedTemporaryFile("r") as lines:
            worker = subprocess.Popen([*command, "--report", lines.name], stderr=errors)
            last, target, complete, changed = at, "", False, time.monotonic()
            while True:
                ended = worker.poll() is not None
                for line in lines:
                    record, changed = json.loads(line), time.monotonic()
                    last, target = record.get("at", last), record.get("target", target)
                    complete = complete or "end" in record
                    if "fault" in record:
                        faults.append(Fault(*record["fault"]))
                        _append(report, faults[-1])
                if ended:
                    break
                if time.monotonic() - changed > HANG_SECONDS:
                    worker.kill()
                time.sleep(0.5)
            if not complete:
                errors.seek(0)
                reason = f"exit code {worker.returncode}: {errors.read()[-300:].decode(errors='replace')!r}"
                faults.append(Fault(last, target, "end of the process", reason))
                _append(report, faults[-1])
        at = last + 1
        print(f"{at - first} of {count} inputs, {len(faults)} faults", flush=True)
    return faults


def _append(report: Path, fault: Fault) -> None:
    print(f"input {fault.number} ({fault.target}): {fault.kind}: {fault.reason}", flush=True)
    with report.open("a") as stream:
        stream.write(json.dumps([fault.number, fault.target, fault.kind, fault.reason]) + "\n")


def _log_to(path: Path) -> Callable[[dict[str, object]], None]:
    stream = path.open("a")

    def log(record: dict[str, object]) -> None:
        stream.write(json.dumps(record) + "\n")
        stream.flush()

    return log


def main() -> int:
    """Run the fuzzer or one of its workers. Return 1 if there were faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--count", type=int, default=200_000, help="the number of inputs")
    parser.add_argument("--only", type=int, help="the number of the only input, whose faults are printed")
    parser.add_argument("--report", type=Path, default=Path("fuzz.jsonl"), help="the file to which faults are appended")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        work(args.seed, [args.only], lambda record: print(record))
        return 0
    if args.worker:
        log = _log_to(args.report)
        work(args.seed, range(args.first, args.first + args.count), log)
        log({"end": True})
        return 0
    faults = run(args.seed, args.first, args.count, args.report)
    kinds = collections.Counter(fault.kind for fault in faults)
    print(f"{args.count} inputs of seed {args.seed}: {len(faults)} faults {dict(kinds)}; {args.report} lists them")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
