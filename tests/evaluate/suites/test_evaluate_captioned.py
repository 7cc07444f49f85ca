import numpy as np
import pytest
from fake_pipeline import SIDE, FakePipeline

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.composition import evaluation_captions
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_captioned import EvaluateCaptioned, evaluate_captioned, retrieved_among
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import render

DRAWING = Drawing(candidates=4, guidance=2.0)
CAPTIONS = list({parse(text): text for text in evaluation_captions(2, "seen", 40, 3)}.values())[:10]  # of 10 scenes


def batches(captions, among, side=SIDE):
    for start in range(0, len(captions), among):
        own = captions[start : start + among]
        yield {"image": [render(parse(one), side, np.random.default_rng(0)) for one in own], "caption": own}


def measured(fake, config, batches, say):
    return evaluate_captioned(fake, fake, fake, fake, config, batches, say)


def test_true_images_and_candidates_are_found_and_wrong_candidates_are_not():
    config = EvaluateCaptioned(DRAWING, captions=7, shown=3, among=5)
    lines = []
    found = measured(FakePipeline(right={2}), config, batches(CAPTIONS, 5), lines.append)
    assert found.retrieval_top1 == 1.0 and found.retrieval_top5 is None  # all of five captions are among five
    assert (found.retrieval_among, found.found_among) == (5, 5)
    assert found.chosen_found == pytest.approx(5 / 7)  # the captions of the other two are not among the first five
    assert found.first_found < found.chosen_found
    assert found.image_nll == found.image_nll_other == np.mean([len(one) for one in CAPTIONS])
    assert [sample.caption for sample in found.samples.samples] == CAPTIONS[:3]
    assert [sample.chosen.index for sample in found.samples.samples] == [2, 2, 2]
    assert [one.caption for one in found.reconstructed] == CAPTIONS[:3]
    assert f"drawn.chosen_found: {found.chosen_found:.4g}" in lines
    assert found.to_json() == {"reconstruction": found.reconstruction.to_json(), **found.scalars()}


def test_more_captions_than_held_out_images_are_lowered_and_every_image_is_measured():
    config = EvaluateCaptioned(DRAWING, captions=11, shown=11, among=7)
    lines = []
    found = measured(FakePipeline(right={0}), config, batches(CAPTIONS, 7), lines.append)
    assert lines[:2] == [f"{name}: 11 lowered to 10, the number of held-out images" for name in ("captions", "shown")]
    assert found.reconstruction.count == 10 and len(found.samples.samples) == 10


def test_the_seed_is_that_of_the_first_caption_and_each_next_caption_has_the_next_one():
    fake = FakePipeline(right={0})
    seeds = []
    fake.draw, draw = (
        lambda requests: (seeds.extend(one.options.seed for one in requests), draw(requests))[1],
        fake.draw,
    )
    config = EvaluateCaptioned(DRAWING, captions=3, shown=1, among=5, seed=40)
    measured(fake, config, batches(CAPTIONS, 5), lambda line: None)
    assert seeds[:3] == [40, 41, 42]


def test_images_of_a_different_size_are_refused():
    config = EvaluateCaptioned(DRAWING, captions=5, shown=1, among=5)
    with pytest.raises(UserError, match=r"held-out images: expected 32 px a side, the model's size, got \(48, 48\)"):
        measured(FakePipeline(right={0}), config, batches(CAPTIONS, 5, side=48), lambda line: None)


def test_an_equal_caption_among_the_most_similar_counts_as_retrieved():
    similarity = np.array([[0.1, 0.9, 0.3], [0.8, 0.2, 0.5], [0.7, 0.6, 0.1]])
    captions = ["a", "a", "b"]
    assert retrieved_among(similarity, captions, 1).tolist() == [1.0, 1.0, 0.0]
    assert retrieved_among(similarity, captions, 2).tolist() == [1.0, 1.0, 0.0]
    assert retrieved_among(similarity, captions, 3).tolist() == [1.0, 1.0, 1.0]
