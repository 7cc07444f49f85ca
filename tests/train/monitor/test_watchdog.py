import os
import subprocess
import sys
from pathlib import Path

import pytest

from dalle_jax.train.monitor.watchdog import EXIT_CODE, PATIENCE, Patience, Phase

CHILD = Path(__file__).parents[1] / "stalled.py"


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, tuple[Path, int, str, str]]:
    """Run a hanging and a slow process; return the folder, the exit code, the output and the errors of each."""
    started = {}
    for how in ("hangs", "slow"):
        out = tmp_path_factory.mktemp("stall") / how
        command = [sys.executable, str(CHILD), str(out), how]
        pipe = subprocess.PIPE
        started[how] = out, subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ)
    try:
        said = {how: child.communicate(timeout=300) for how, (_, child) in started.items()}
    finally:
        for _, child in started.values():
            child.kill()
    return {how: (out, child.returncode, *said[how]) for how, (out, child) in started.items()}


def test_the_limit_is_exceeded_if_no_step_finishes_in_the_allowed_time():
    patience = Patience(10.0)
    assert not patience.passed(9.0, 1, 0, Phase.BATCH)
    assert patience.passed(2.0, 1, 0, Phase.BATCH)
    assert patience.waited == 11.0


def test_a_finished_step_or_the_start_of_a_slow_phase_resets_the_time():
    patience = Patience(10.0)
    for steps in range(1, 20):
        assert not patience.passed(9.0, steps, 0, Phase.STEP)
    assert not patience.passed(9.0, 19, 1, Phase.EVALUATION)
    assert not patience.passed(9.0, 19, 2, Phase.STEP)
    assert patience.passed(2.0, 19, 2, Phase.STEP)


@pytest.mark.parametrize("phase", [Phase.EVALUATION, Phase.IMAGES, Phase.CHECKPOINT, Phase.OPENING])
def test_slow_phases_and_the_first_step_have_a_larger_limit(phase):
    for steps, what in ((5, phase), (0, Phase.STEP)):
        patience = Patience(10.0)
        assert not patience.passed(10.0 * PATIENCE, steps, 1, what)
        assert patience.passed(0.1, steps, 1, what)


def test_a_hung_run_reports_its_phase_and_ends_with_a_distinct_code(ended):
    out, code, _, said = ended["hangs"]
    assert code == EXIT_CODE, said
    last = said.splitlines()[-1]
    assert last.startswith("dalle-jax: error: stalled after step 6: no progress for")
    assert "waiting for a batch from the data source" in last
    (file,) = (out / "stalls").iterdir()
    assert str(file) in last and file.name == "step_00000006_process_0.txt"
    for stacks in (said, file.read_text()):
        assert "stalled.py" in stacks and "in batch" in stacks and "in run" in stacks
    assert "waiting for a batch" in file.read_text().splitlines()[0]


def test_a_run_with_slow_steps_and_slow_evaluation_is_not_ended(ended):
    out, code, printed, said = ended["slow"]
    assert code == 0, said
    assert "step=8" in printed and not (out / "stalls").exists()
