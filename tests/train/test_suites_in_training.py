"""Suites that a run measures its own weights with, on the toy task."""

import contextlib
import dataclasses
import json

from dalle_jax import storage
from dalle_jax.train.loop import TrainLoop
from dalle_jax.train.task import Suites
from tests.train.child import TASK, TRAINER
from tests.train.runs import CONFIG, LINES
from tests.train.toy import layout


class Counted:
    """A suite whose figure is the number of its calls; it notes the checkpoints that it finds."""

    def __init__(self):
        self.found = []

    def __call__(self, folder, log):
        self.found.append(sorted(int(one.name) for one in (folder / "checkpoints").iterdir() if one.name.isdecimal()))
        log("measured")
        return {"images/fd": float(len(self.found))}


def test_suites_run_on_a_finished_checkpoint_and_their_figures_are_metrics_of_the_step(tmp_path, capsys):
    suites = Counted()
    assert isinstance(suites, Suites)
    trainer = dataclasses.replace(TRAINER, steps=7, suites_every=3, save_every=None, keep=9)
    with contextlib.ExitStack() as opened:
        loop = TrainLoop(TASK, LINES, trainer, layout(), storage.place(tmp_path), CONFIG, opened, suites=suites)
        result = loop.run()
    assert suites.found == [[3], [3, 6], [3, 6, 7]]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    figures = {line["step"]: line["suites/images/fd"] for line in lines if "suites/images/fd" in line}
    assert figures == {3: 1.0, 6: 2.0, 7: 3.0}
    assert result.metrics["suites/images/fd"] == 3.0
