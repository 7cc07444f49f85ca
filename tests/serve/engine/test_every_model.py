"""Every kind of model in the running batch: generations, holes, variations and changes of whole images.

Each is the same alone and in company, and as far as it is drawn by the Python calls, the same as theirs.
"""

from collections.abc import Mapping

import numpy as np
import pytest
from served_jobs import Asked, check_company, generate, hole, mix, run, vary
from served_models import PIPELINES, WORDS_OF

from dalle_jax.pipelines.edits import mix as mixes
from dalle_jax.pipelines.edits import vary as varies
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.painting import inpaint
from dalle_jax.pipelines.request import Generation, Request
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.works import Edit, Generate, Vary, Work

pytestmark = pytest.mark.slow
SHOWN = (0.25, 0.5, 0.75)


@pytest.fixture(scope="module", params=PIPELINES)
def model(request) -> PipelineModel:
    return PipelineModel(request.param, PIPELINES[request.param]())


def works(model: PipelineModel) -> list[Work]:
    """Return works of every kind that the model does."""
    prompt, able, side = WORDS_OF.get(model.name, "a red circle"), model.abilities, model.abilities.side
    found: list[Work] = [generate(prompt, 1, 2, shown=SHOWN), generate(prompt, 2, 3, guidance=1.0)]
    if able.inpaint:
        found.append(hole(prompt, 3, side, 2, shown=SHOWN))
    if able.vary:
        found += [vary(4, side, 2, shown=SHOWN), vary(4, side, 1, prompt=prompt)]
    if able.mix:
        found += [mix(prompt, 5, side, 2, shown=SHOWN), mix(prompt, 6, side, 1, count=1)]
    return found


@pytest.fixture(scope="module")
def drawn(model) -> list[tuple[Work, Asked]]:
    """Return the works, drawn in company, after a check against those drawn alone."""
    every = works(model)
    return list(zip(every, check_company(model, *every), strict=True))


def by_call(model: PipelineModel, work: Work) -> Mapping[int, np.ndarray]:
    """Return the images that the Python call of a work draws, by candidate."""
    pipeline, options = model.pipeline, work.options
    own = {name: getattr(options, name) for name in ("candidates", "keep", "seed", "guidance")}
    found: Generation
    if isinstance(work, Generate):
        found = pipeline.draw([model.request(work)])[0]
    elif isinstance(work, Edit) and work.hidden is not None:
        filled = inpaint(pipeline, work.images[0].pixels, work.prompt, mask=work.hidden, **own)
        return dict(zip(filled.chosen.tolist(), filled.pixels, strict=True))
    elif isinstance(work, Edit):
        found = mixes.mix(pipeline, [one.pixels for one in work.images], work.prompt, **own)
    elif isinstance(pipeline, EmbeddingEditor):
        found = varies.vary(pipeline, work.image.pixels, text=work.prompt, **own)
    else:
        top = pipeline.given_top(work.image.pixels, 0.5)
        found = pipeline.draw([Request(work.prompt or "", options, given_image=top)])[0]
    return dict(zip(found.chosen.tolist(), found.pixels, strict=True))


def test_images_are_those_of_the_python_calls(model, drawn):
    for work, asked in drawn:
        wanted = by_call(model, work)
        assert list(wanted) == [one.candidate for one in asked.drawn]
        for candidate, image in asked.images.items():
            assert np.abs(image.astype(int) - wanted[candidate]).max() <= 1, type(work).__name__


def test_every_work_is_shown_at_the_size_of_its_images(drawn):
    for work, asked in drawn:
        numbers = sorted((one.image, one.number) for one in asked.partial)
        assert numbers == [(image, number) for image in range(work.options.kept) for number in range(len(work.shown))]
        for one in asked.partial:
            assert one.pixels.shape == asked.images[one.image].shape
            assert one.pixels.dtype == np.uint8


def test_pixels_outside_a_hole_are_exact_while_it_is_filled_and_in_the_end(model, drawn):
    edits = [(work, asked) for work, asked in drawn if isinstance(work, Edit) and work.hidden is not None]
    assert bool(edits) == model.abilities.inpaint
    for work, asked in edits:
        for pixels in [*asked.images.values(), *(one.pixels for one in asked.partial)]:
            np.testing.assert_array_equal(pixels[~work.hidden], work.images[0].pixels[~work.hidden])
        assert all((one[work.hidden] != work.images[0].pixels[work.hidden]).any() for one in asked.images.values())


def test_a_long_hole_is_filled_window_by_window_and_a_cancelled_edit_leaves(model):
    if not model.abilities.inpaint:
        return
    prompt, side = WORDS_OF.get(model.name, "a red circle"), model.abilities.side
    work = hole(prompt, 7, side, 2, shown=(0.5,))
    pixels = np.random.default_rng(8).integers(0, 256, (side, 3 * side, 3), np.uint8)
    hidden = np.ones((side, 3 * side), bool)
    hidden[:, : side // 2] = False
    image = type(work.images[0])(pixels, "RGB", pixels)
    long = Edit(images=(image,), hidden=hidden, prompt=prompt, options=work.options, shown=work.shown)
    asked, gone = Asked(model, long), Asked(model, work)
    assert model.runner.admit(gone.job)
    model.runner.step()
    gone.job.cancel()
    (asked,) = run(model, long)
    assert not gone.events
    wanted = by_call(model, long)
    for candidate, found in asked.images.items():
        assert np.abs(found.astype(int) - wanted[candidate]).max() <= 1
    assert len(asked.partial) == 2
    for one in asked.partial:
        np.testing.assert_array_equal(one.pixels[~hidden], pixels[~hidden])


def test_a_variation_depends_on_its_prompt(model, drawn):
    varied = [asked for work, asked in drawn if isinstance(work, Vary)]
    if varied:
        assert (varied[0].images[0] != varied[1].images[0]).any()
