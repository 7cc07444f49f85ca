import os
import re
import signal

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.train.loop import train
from dalle_jax.train.monitor.profiler import Steps
from tests.train.child import TASK, TRAINER
from tests.train.test_resume import CONFIG
from tests.train.toy import Lines, layout


class Signals(Lines):
    """Batches that send the signal while the batch of step 8 is made."""

    def batch(self, step, rows):
        if step == 8:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().batch(step, rows)


def traces(out):
    return list((out / "profile").rglob("*.xplane.pb"))


def test_the_chosen_steps_are_traced_and_one_line_names_the_folder(tmp_path, capsys):
    train(TASK, Lines(), TRAINER, layout(), tmp_path, CONFIG, Steps(18, 30))
    (file,) = traces(tmp_path)
    assert file.stat().st_size > 1000
    said = [line for line in capsys.readouterr().err.splitlines() if "traced" in line]
    assert len(said) == 1 and str(tmp_path / "profile") in said[0] and "the steps after 18 up to 20 into" in said[0]


def test_the_signal_traces_the_next_five_steps(tmp_path, capsys):
    before = signal.getsignal(signal.SIGUSR1)
    train(TASK, Signals(), TRAINER, layout(), tmp_path, CONFIG)
    assert len(traces(tmp_path)) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "traced" in line]
    first, last = map(int, re.search(r"after (\d+) up to (\d+)", said).groups())
    assert last == first + 5
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("text", ["100", "5:5", "7:3", "a:b", "-1:3", ":"])
def test_a_malformed_range_of_steps_is_refused(text):
    with pytest.raises(UserError, match=f"--profile: expected FIRST:LAST, .*got '{text}'"):
        Steps.parse(text)
    assert Steps.parse("100:105") == Steps(100, 105)
