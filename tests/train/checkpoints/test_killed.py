"""SIGKILL at any moment, during or between saves: the run resumes from an intact checkpoint, bit for bit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.train.checkpoints import checksums
from dalle_jax.train.checkpoints.checkpoints import UNFINISHED, whole_steps
from tests.train.runs import run
from tests.train.toy import leaves

PROGRAM = Path(__file__).parents[1] / "killed.py"
STARTS_UP = 0.2
"""Share of the kills that do not wait for the first save: they hit the start, the restoring, the compiling."""


@pytest.fixture
def starter(tmp_path):
    """Start the process that starts the runs, which share its compiled programs."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], **pipes, stderr=said, text=True, env=os.environ | cache
        )
        yield process
        process.communicate(timeout=60)


def folders(checkpoints: Path) -> dict[int, str]:
    """Return the names of all checkpoint folders, complete or not, by inode."""
    found = {}
    for path in checkpoints.iterdir() if checkpoints.is_dir() else []:
        with contextlib.suppress(FileNotFoundError):
            found[path.stat().st_ino] = path.name
    return found


def kill(starter: subprocess.Popen, out: Path, steps: int, rng: np.random.Generator) -> str:
    """Start or resume the run and kill it at a random moment; return a description of that moment."""
    before = folders(out / "checkpoints")
    starter.stdin.write(f"{out} {steps}\n")
    starter.stdin.flush()
    process = int(starter.stdout.readline())
    if rng.random() < STARTS_UP:
        time.sleep(rng.uniform(0.0, 3.0))
    else:
        deadline = time.monotonic() + 120
        while not folders(out / "checkpoints").keys() - before.keys():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 1.0))
    os.kill(process, signal.SIGKILL)
    assert int(starter.stdout.readline()) == signal.SIGKILL, "it ended before it was killed: give it more steps"
    new = [name for inode, name in folders(out / "checkpoints").items() if inode not in before]
    if not new:
        return "before it saved"
    return "in a save" if any(name.endswith(UNFINISHED) for name in new) else "between saves"


def check_kills(starter: subprocess.Popen, folder: Path, kills: int, steps: int) -> list[str]:
    rng = np.random.default_rng(kills)
    out, where = folder / "run", []
    for _ in range(kills):
        where.append(kill(starter, out, steps, rng))
        found = whole_steps(out / "checkpoints")
        assert not found or checksums.damage(out / "checkpoints" / str(found[-1])) is None
    resumed = run(out, steps=steps, save_every=None, config="")
    assert resumed.start == (found[-1] if found else 0)
    assert not list((out / "checkpoints").glob("*.damaged*"))
    never_killed = run(folder / "whole", steps=steps, save_every=None, config="")
    assert leaves(resumed.state) == leaves(never_killed.state)
    return where


@pytest.mark.slow
def test_a_run_killed_three_times_equals_an_uninterrupted_run_bit_for_bit(starter, tmp_path):
    assert len(check_kills(starter, tmp_path, kills=3, steps=100)) == 3


@pytest.mark.slow
def test_a_run_killed_thirty_times_equals_an_uninterrupted_run_bit_for_bit(starter, tmp_path, capsys):
    where = Counter(check_kills(starter, tmp_path, kills=30, steps=600))
    with capsys.disabled():
        print(dict(where))
    assert where["in a save"] >= 5 <= where["between saves"]
