"""Calls of a runner that a second one repeats: jobs of any kind, those that are given up, and steps that fail."""

import json
from collections import deque

import numpy as np
import pytest
from solid_model import SolidModel

from dalle_jax.images.editable import load_editable
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.serve.engine.followed_runner import END, FollowedRunner, follow
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.work_bytes import work_bytes, work_of_bytes
from dalle_jax.serve.engine.works import Edit, Failed, Finished, Generate, Partial, Vary

OPTIONS = RequestOptions(candidates=2, keep=1, seed=5, guidance=2.5)
IMAGE = load_editable(np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8))
HIDDEN = np.eye(6, 4, dtype=bool)


class Messages(deque):
    """Messages that arrive at once; after the last one the run has ended."""

    def receive(self) -> bytes:
        return self.popleft() if self else END


class Pair:
    """A runner of process 0, and the messages that another process reads."""

    def __init__(self, room: int = 4) -> None:
        self.first, self.second, self.sent = SolidModel(room=room), SolidModel(room=room), Messages()
        self.runner = FollowedRunner("solid", self.first.runner, self.sent.append)

    def repeat(self) -> None:
        follow({"solid": self.second.runner}, self.sent.receive)


def generate(prompt: str = "a", shown: tuple[float, ...] = ()) -> Generate:
    return Generate(prompt=prompt, options=OPTIONS, negative_prompt="ä", steps=4, shown=shown)


@pytest.mark.parametrize(
    "work",
    [
        generate(shown=(0.25, 0.5)),
        Edit(images=(IMAGE, IMAGE), hidden=None, prompt="a", options=OPTIONS, strength=0.3),
        Edit(images=(IMAGE,), hidden=HIDDEN, prompt="a", options=OPTIONS, steps=2),
        Vary(image=IMAGE, options=OPTIONS),
    ],
)
def test_a_work_is_the_same_after_it_was_sent(work):
    found = work_of_bytes(work_bytes(work))
    assert type(found) is type(work)
    for name, value in vars(work).items():
        other = getattr(found, name)
        if name in ("image", "images"):
            value, other = (np.stack([one.pixels for one in np.atleast_1d(given)]) for given in (value, other))
        np.testing.assert_array_equal(value, other)
        assert type(value) is type(other)


def test_another_process_makes_the_same_calls_and_only_the_first_delivers():
    pair, events = Pair(), []
    job = Job("solid", generate(shown=(0.5,)), events.append)
    assert pair.runner.admit(job)
    while pair.runner.busy:
        pair.runner.step()
    assert [type(one) for one in events] == [Partial, Finished]
    pair.repeat()
    assert pair.second.steps == pair.first.steps == 2
    assert not pair.second.busy
    assert pair.second.seen[0].work == job.work


def test_a_job_without_room_is_sent_once_and_admitted_later_in_both():
    pair = Pair(room=1)
    jobs = [Job("solid", generate(one), print) for one in "ab"]
    assert [pair.runner.admit(one) for one in (*jobs, jobs[1])] == [True, False, False]
    assert [len(one.partition(b"\n")[2]) > 0 for one in pair.sent] == [True, True, False]
    pair.runner.step()
    assert pair.runner.admit(jobs[1])
    pair.repeat()
    assert [one.work.prompt for one in pair.second.seen] == ["a", "b"]


def test_jobs_that_are_given_up_or_refused_end_in_both_before_the_same_step():
    pair = Pair()
    jobs = [Job("solid", generate(one, (0.2, 0.4)), lambda event: None) for one in "abc"]
    for one in jobs:
        pair.runner.admit(one)
    jobs[0].cancel()
    jobs[1].deadline = 0
    pair.runner.step()
    pair.runner.step()
    pair.repeat()
    assert [one.cancelled for one in pair.second.seen] == [True, True, False]
    assert [one.work.prompt for one, _ in pair.second.jobs] == ["c"] == [one.work.prompt for one, _ in pair.first.jobs]


def test_a_step_that_fails_everywhere_ends_its_jobs_and_one_that_fails_elsewhere_ends_the_process():
    pair, events = Pair(), []
    pair.runner.admit(Job("solid", generate("break"), events.append))
    with pytest.raises(RuntimeError) as caught:
        pair.runner.step()
    pair.runner.drop(caught.value)
    assert isinstance(events[-1], Failed)
    assert [json.loads(one.partition(b"\n")[0])[1] for one in pair.sent] == ["admit", "step", "drop"]
    without_drop = Messages(list(pair.sent)[:2])
    pair.repeat()
    assert not pair.second.busy
    with pytest.raises(RuntimeError, match="a fault"):
        follow({"solid": SolidModel().runner}, without_drop.receive)
