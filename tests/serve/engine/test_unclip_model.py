"""A small unCLIP whose requests share a running batch, each at a step of its own."""

import numpy as np
import pytest
from small_painters import unclip

from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Finished, Generate, Partial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> PipelineModel:
    found = PipelineModel("small", unclip(batch=4).with_steps(8))
    found.warm()
    return found


def generate(seed: int, candidates: int, **changes) -> Generate:
    options = RequestOptions(candidates=candidates, keep=candidates, seed=seed, guidance=changes.pop("guidance", 2.0))
    return Generate(prompt="a red circle", options=options, **changes)


def run(model: PipelineModel, *works: Generate) -> list[list]:
    """Let works arrive one after the other, as soon as there is room, and return the events of each."""
    events = [[] for _ in works]
    waiting = [Job(model.name, work, own.append) for work, own in zip(works, events, strict=True)]
    while waiting or model.runner.busy:
        if waiting and model.runner.admit(waiting[0]):
            waiting.pop(0)
        model.runner.step()
    return events


def images(events: list) -> list[np.ndarray]:
    assert isinstance(events[-1], Finished), events[-1]
    return [one.pixels for one in events[-1].images]


def test_an_image_is_the_same_to_the_last_bit_alone_and_in_any_company(model):
    works = [generate(1, 2), generate(2, 3, steps=4), generate(3, 1, guidance=1.0), generate(4, 2, steps=2)]
    alone = [run(model, one)[0] for one in works]
    together = run(model, *works)
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(images(first), images(second))


def test_images_and_scores_are_those_of_the_pipeline(model):
    work = generate(5, 2)
    (events,) = run(model, work)
    drawn = model.pipeline.draw([Request(work.prompt, work.options)])[0]
    for one in events[-1].images:
        np.testing.assert_array_equal(one.pixels, drawn.candidates[one.candidate])
        np.testing.assert_allclose(one.score, drawn.candidate_scores[one.candidate], atol=1e-5)


def test_partial_images_are_the_codes_that_a_step_predicts(model):
    shown, (whole,) = (0.25, 0.5, 0.75), run(model, generate(6, 1))
    (events,) = run(model, generate(6, 1, shown=shown))
    partial = [one for one in events if isinstance(one, Partial)]
    assert [one.number for one in partial] == [0, 1, 2]
    np.testing.assert_array_equal(images(events), images(whole))
    errors = [np.abs(one.pixels.astype(int) - images(whole)[0]).mean() for one in partial]
    assert errors[0] >= errors[2]


def test_the_steps_of_a_request_are_those_of_a_pipeline_with_so_many(model):
    (events,) = run(model, generate(7, 1, steps=4))
    work = generate(7, 1)
    drawn = model.pipeline.with_steps(4).draw([Request(work.prompt, work.options)])[0]
    np.testing.assert_array_equal(images(events)[0], drawn.candidates[0])
