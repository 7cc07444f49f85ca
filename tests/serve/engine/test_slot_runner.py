"""A small transformer whose requests share a running batch."""

import numpy as np
import pytest
from served_jobs import check_company as check_company_of
from served_jobs import hole
from small_painters import transformer

from dalle_jax.images.editable import load_editable
from dalle_jax.pipelines.edits.painting import inpaint
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Edit, Failed, Finished, Generate, Partial, Vary

LENGTH = 16  # codes of an image


@pytest.fixture(scope="module")
def plain() -> PipelineModel:
    """Return a model without a CLIP, of which only what a test needs is compiled."""
    return PipelineModel("plain", transformer(batch=4, ranked=False))


@pytest.fixture(scope="module")
def model() -> PipelineModel:
    found = PipelineModel("small", transformer(batch=4))
    found.warm()
    return found


class Asked:
    """A job and its events."""

    def __init__(self, model: PipelineModel, work) -> None:
        model.check(work)
        self.events = []
        self.job = Job(model.name, work, self.events.append)

    @property
    def images(self) -> dict[int, np.ndarray]:
        end = self.events[-1]
        assert isinstance(end, Finished), end
        return {one.candidate: one.pixels for one in end.images}


def generate(prompt: str, seed: int, candidates: int, **changes) -> Generate:
    shown, negative = changes.pop("shown", ()), changes.pop("negative_prompt", None)
    shows_all, keep = changes.pop("shows_all", False), changes.pop("keep", candidates)
    options = RequestOptions(candidates=candidates, keep=keep, seed=seed, **changes)
    return Generate(prompt=prompt, options=options, negative_prompt=negative, shown=shown, shows_all=shows_all)


def run(model: PipelineModel, *asked: Asked, steps_between: int = 1) -> None:
    """Let jobs arrive one after the other, as soon as there is room, and run until all are done."""
    waiting = list(asked)
    while waiting or model.runner.busy:
        if waiting and model.runner.admit(waiting[0].job):
            waiting.pop(0)
        for _ in range(steps_between):
            model.runner.step()


def check_company(model: PipelineModel, works: list[Generate]) -> None:
    alone = [Asked(model, one) for one in works]
    for one in alone:
        run(model, one)
    company = [Asked(model, one) for one in works]
    run(model, *company)
    for first, second in zip(alone, company, strict=True):
        assert first.images.keys() == second.images.keys()
        for number, pixels in first.images.items():
            np.testing.assert_array_equal(pixels, second.images[number])


def test_an_image_is_the_same_to_the_last_bit_alone_and_in_any_company(plain):
    works = [
        generate("a red circle", 3, 2),
        generate("a blue square", 4, 3, temperature=0.5, top_k=5),
        generate("a red circle", 5, 1, guidance=1.0),
    ]
    check_company(plain, works)


def test_windows_of_codes_give_the_same_images_alone_and_in_company(plain):
    windowed = PipelineModel("windowed", transformer(batch=4, ranked=False), window=3)
    works = [generate("a red circle", 3, 2, shown=(0.5,)), generate("a blue square", 4, 3, temperature=0.5, top_k=5)]
    plainly = [Asked(plain, one) for one in works]
    windows = [Asked(windowed, one) for one in works]
    run(plain, *plainly)
    run(windowed, *windows)
    for first, second in zip(plainly, windows, strict=True):
        assert first.images.keys() == second.images.keys()
        for number, pixels in first.images.items():
            np.testing.assert_array_equal(pixels, second.images[number])
    assert [type(one) for one in windows[0].events] == [Partial, Partial, Finished]


def test_lanes_share_the_images_of_jobs_and_draw_the_same_ones(plain):
    lanes = PipelineModel("lanes", transformer(batch=4, ranked=False), lanes=2)
    works = [generate("a red circle", 3, 5, shown=(0.5,)), generate("a blue square", 4, 1, temperature=0.5, top_k=5)]
    plainly, shared = [[Asked(one, work) for work in works] for one in (plain, lanes)]
    run(plain, *plainly)
    gone = Asked(lanes, generate("a red circle", 1, 8))
    assert lanes.runner.admit(gone.job)
    lanes.runner.step()
    gone.job.cancel()
    run(lanes, *shared)
    assert gone.events == []
    for first, second in zip(plainly, shared, strict=True):
        assert first.images.keys() == second.images.keys()
        for number, pixels in first.images.items():
            np.testing.assert_array_equal(pixels, second.images[number])
    assert len([one for one in shared[0].events if isinstance(one, Partial)]) == 5
    lost = Asked(lanes, generate("a red circle", 1, 6))
    assert lanes.runner.admit(lost.job)
    lanes.runner.step()
    lanes.runner.drop(RuntimeError("lost"))
    assert isinstance(lost.events[-1], Failed)
    again = Asked(lanes, works[1])
    run(lanes, again)
    np.testing.assert_array_equal(again.images[0], shared[1].images[0])


def test_an_edit_shows_the_whole_image_while_its_hole_is_filled_and_keeps_all_other_pixels(plain):
    work = hole("a red circle", 3, 16, 2, shown=(0.5, 0.9))
    edited, _ = check_company_of(plain, work, generate("a blue square", 2, 1))
    given, hidden = work.images[0].pixels, work.hidden
    assert sorted((one.image, one.number) for one in edited.partial) == [(i, n) for i in range(2) for n in range(2)]
    for pixels in [*edited.images.values(), *(one.pixels for one in edited.partial)]:
        np.testing.assert_array_equal(pixels[~hidden], given[~hidden])
    wanted = inpaint(plain.pipeline, given, work.prompt, mask=hidden, candidates=2, keep=2, seed=3)
    for number, pixels in edited.images.items():
        np.testing.assert_array_equal(pixels, wanted.pixels[number])


@pytest.mark.slow
def test_negative_prompts_change_nothing_in_their_company(model):
    works = [
        generate("a red square", 6, 2, negative_prompt="a blue circle", top_p=0.8),
        generate("a red square", 6, 2, top_p=0.8),
    ]
    check_company(model, works)


@pytest.mark.slow
def test_images_and_scores_are_those_of_the_pipeline(model):
    work = generate("a red circle", 7, 4, temperature=0.7)
    asked = Asked(model, work)
    run(model, asked)
    drawn = model.pipeline.draw([Request(work.prompt, work.options)])[0]
    for one in asked.events[-1].images:
        np.testing.assert_array_equal(one.pixels, drawn.candidates[one.candidate])
        np.testing.assert_allclose(one.score, drawn.candidate_scores[one.candidate], atol=1e-5)
    assert [one.candidate for one in asked.events[-1].images] == drawn.chosen.tolist()


def test_partial_images_show_the_drawn_codes_and_are_grey_below(plain):
    asked = Asked(plain, generate("a red circle", 8, 3, keep=2, shown=(0.25, 0.5, 0.75)))
    run(plain, asked)
    partial = [one for one in asked.events if isinstance(one, Partial)]
    assert sorted((one.image, one.number) for one in partial) == [(i, n) for i in range(2) for n in range(3)]
    for one in partial:
        rows = 4 * (one.number + 1)  # of 16 pixels
        assert (one.pixels[rows:] == 128).all()
        assert one.pixels[:rows].std() > 0
    assert asked.images  # and the end comes last


def test_every_candidate_is_shown_if_all_are_asked_for(plain):
    asked = Asked(plain, generate("a red circle", 8, 3, keep=1, shown=(0.5,), shows_all=True))
    run(plain, asked)
    assert sorted(one.image for one in asked.events if isinstance(one, Partial)) == [0, 1, 2]


def test_a_cancelled_job_leaves_its_slots_to_others(plain):
    gone, other = Asked(plain, generate("a red circle", 1, 6)), Asked(plain, generate("a blue square", 2, 4))
    assert plain.runner.admit(gone.job)
    plain.runner.step()
    gone.job.cancel()
    run(plain, other)
    assert gone.events == []
    assert len(other.images) == 4


@pytest.mark.slow
def test_more_candidates_than_slots_are_drawn_one_after_the_other(model):
    asked = Asked(model, generate("a red circle", 9, 10, keep=3))
    run(model, asked)
    scores = [one.score for one in asked.events[-1].images]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_a_variation_keeps_the_codes_of_the_top_half(model):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    asked = Asked(model, Vary(image=load_editable(image), options=RequestOptions(candidates=2, keep=2, seed=1)))
    run(model, asked)
    codes = model.pipeline.codec.encode(image)
    top = model.pipeline.codec.decode(codes)[0][:4]  # below, the decoder sees codes that were drawn
    first, second = asked.images.values()
    np.testing.assert_array_equal(first[:4], top)
    assert (first[8:] != second[8:]).any()


@pytest.mark.slow
def test_an_edit_fills_the_hole_while_others_are_drawn(model):
    image, hidden = np.full((16, 16, 3), 200, np.uint8), np.zeros((16, 16), bool)
    hidden[4:12, 4:12] = True
    work = Edit(
        images=(load_editable(image),), hidden=hidden, prompt="a red circle",
        options=RequestOptions(candidates=1, seed=1),
    )  # fmt: skip
    asked, other = Asked(model, work), Asked(model, generate("a blue square", 2, 2))
    run(model, asked, other)
    assert (asked.images[0][~hidden] == 200).all()
    assert len(other.images) == 2


@pytest.mark.slow
def test_after_a_fault_the_slots_begin_anew(model):
    asked = Asked(model, generate("a red circle", 1, 6))
    assert model.runner.admit(asked.job)
    model.runner.step()
    model.runner.drop(RuntimeError("lost"))
    assert isinstance(asked.events[-1], Failed)
    again = Asked(model, generate("a red circle", 1, 2))
    run(model, again)
    assert len(again.images) == 2
