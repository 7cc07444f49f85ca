"""SIGKILL at any moment, during a save or between two: the run goes on from a whole checkpoint, to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.train import checksums
from dalle_jax.train.checkpoint import UNFINISHED, whole_steps
from tests.train.runs import run
from tests.train.toy import leaves

PROGRAM = Path(__file__).with_name("killed.py")
STARTS_UP = 0.2
"""Share of the kills that do not wait for the first save: they hit the start, the restoring, the compiling."""


def kill(out: Path, steps: int, rng: np.random.Generator) -> str:
    """Starts or goes on with the run and kills it at a random moment; gives where it was hit."""
    checkpoints = out / "checkpoints"
    before = whole_steps(checkpoints)[-1:]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(out.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, str(PROGRAM), str(out), str(steps)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | cache)
    if rng.random() < STARTS_UP:
        time.sleep(rng.uniform(0.0, 6.0))
    else:
        deadline = time.monotonic() + 120
        while whole_steps(checkpoints)[-1:] == before and not list(checkpoints.glob("*" + UNFINISHED)):
            assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 1.0))
    assert child.poll() is None, "it ended before it was killed: give it more steps"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    if not checkpoints.is_dir():
        return "before the first save"
    return "in a save" if list(checkpoints.glob("*" + UNFINISHED)) else "between saves"


def check_kills(out: Path, kills: int, steps: int) -> list[str]:
    rng = np.random.default_rng(kills)
    never_killed = run(out / "whole", steps=steps, save_every=None, config="")
    where = []
    for _ in range(kills):
        where.append(kill(out / "run", steps, rng))
        found = whole_steps(out / "run" / "checkpoints")
        assert not found or checksums.damage(out / "run" / "checkpoints" / str(found[-1])) is None
    resumed = run(out / "run", steps=steps, save_every=None, config="")
    assert resumed.start == (found[-1] if found else 0)
    assert leaves(resumed.state) == leaves(never_killed.state)
    assert not list((out / "run" / "checkpoints").glob("*.damaged*"))
    return where


def test_killed_three_times_ends_with_the_bits_of_the_run_that_never_was(tmp_path):
    assert len(check_kills(tmp_path, kills=3, steps=100)) == 3


@pytest.mark.slow
def test_killed_thirty_times_ends_with_the_bits_of_the_run_that_never_was(tmp_path, capsys):
    where = check_kills(tmp_path, kills=30, steps=600)
    with capsys.disabled():
        print({place: where.count(place) for place in sorted(set(where))})
    assert where.count("in a save") >= 5
