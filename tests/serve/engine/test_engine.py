"""The queue and the thread of the engine, with a model that a test may hold up."""

import time

import pytest
from solid_model import SolidModel

from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.serve.engine.engine import Draining, Engine, QueueFull
from dalle_jax.serve.engine.serve_job import Expired, Job
from dalle_jax.serve.engine.works import Failed, Finished, Generate
from dalle_jax.serve.safety import Unsafe


def job(events: list, prompt="a", model="solid", **changes) -> Job:
    work = Generate(prompt=prompt, options=RequestOptions(candidates=1), shown=changes.pop("shown", ()))
    return Job(model, work, events.append, **changes)


def wait_until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def model():
    return SolidModel(room=2)


@pytest.fixture
def engine(model):
    found = Engine([model], queue=3)
    found.start()
    yield found
    model.gate.set()
    found.close()


def test_jobs_are_done_and_their_events_end_with_the_images(engine):
    events = []
    engine.submit(job(events, shown=(0.5,)))
    wait_until(lambda: len(events) == 2)
    assert isinstance(events[-1], Finished)


def test_a_full_queue_takes_no_job_and_says_when_to_come_back(engine, model):
    wait_until(lambda: engine.ready)
    model.gate.clear()
    events = []
    engine.submit(job(events))
    wait_until(lambda: model.busy)
    for _ in range(3):
        engine.submit(job(events))
    with pytest.raises(QueueFull) as caught:
        engine.submit(job(events))
    assert caught.value.seconds >= 1
    model.gate.set()
    wait_until(lambda: len(events) == 4)


def test_a_draining_engine_finishes_what_it_took_and_takes_no_more(engine, model):
    wait_until(lambda: engine.ready)
    model.gate.clear()
    events = []
    for _ in range(2):
        engine.submit(job(events))
    engine.drain()
    assert not engine.ready
    with pytest.raises(Draining):
        engine.submit(job(events))
    model.gate.set()
    engine.close()
    assert len(events) == 2


def test_a_cancelled_job_is_dropped_whether_it_waits_or_runs(engine, model):
    wait_until(lambda: engine.ready)
    model.gate.clear()
    events = []
    jobs = [job(events, shown=(0.2, 0.4)) for _ in range(4)]
    engine.submit(jobs[0])
    wait_until(lambda: model.busy)
    for one in jobs[1:]:
        engine.submit(one)
    for one in jobs:
        one.cancel()
    model.gate.set()
    wait_until(lambda: engine.unfinished() == 0)
    assert events == []


def test_a_job_past_its_deadline_ends_without_being_drawn(engine, model):
    events = []
    engine.submit(job(events, deadline=time.monotonic() - 1))
    wait_until(lambda: events)
    assert isinstance(events[0].error, Expired)
    assert not model.seen


def test_a_step_that_fails_ends_the_jobs_of_its_model_and_nothing_else(engine):
    events, other = [], []
    engine.submit(job(events, prompt="break"))
    wait_until(lambda: events)
    assert isinstance(events[0], Failed)
    engine.submit(job(other))
    wait_until(lambda: other)
    assert isinstance(other[0], Finished)


def test_a_model_without_room_does_not_hold_up_another_one():
    slow, quick = SolidModel("slow", room=0), SolidModel("quick")
    slow.jobs.append((job([], model="slow"), 0))  # its room is 0, so it admits no other
    engine = Engine([slow, quick])
    events = []
    engine.submit(job([], model="slow"))
    engine.submit(job(events, model="quick"))
    engine.start()
    wait_until(lambda: events)
    engine.close(0.0)
    assert isinstance(events[-1], Finished) and not slow.seen


def test_an_image_that_is_refused_ends_its_job(engine):
    def refuse(pixels):
        raise Unsafe("no")

    events = []
    engine.submit(job(events, review=refuse))
    wait_until(lambda: events)
    assert isinstance(events[0].error, Unsafe)
