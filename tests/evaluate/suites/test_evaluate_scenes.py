from dataclasses import replace

import numpy as np
import pytest
from fake_pipeline import FakePipeline

from dalle_jax.evaluate.metrics.composition import DEFAULT_SPLITS, Cell, Composition, evaluation_captions
from dalle_jax.evaluate.metrics.reconstruction import PSNR_LIMIT
from dalle_jax.evaluate.metrics.shares import share_of
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_scenes import EvaluateScenes, evaluate_scenes
from dalle_jax.evaluate.suites.findings import GuidancePoint, best_scale

CONFIG = EvaluateScenes(
    levels=(1, 2),
    captions=5,
    drawing=Drawing(candidates=4, guidance=2.0),
    many_captions=2,
    many_candidates=16,
    guidance_captions=3,
    guidances=(1.0, 3.0),
    reconstructions=4,
    shown=3,
)


@pytest.fixture(scope="module")
def findings():
    fake = FakePipeline(right={2})
    return evaluate_scenes(fake, fake, fake, CONFIG, lambda line: None)


def test_shares_follow_from_the_candidate_that_is_right(findings):
    assert [(cell.level, cell.split) for cell in findings.composition.cells] == [
        (k, s) for k in (1, 2) for s in DEFAULT_SPLITS
    ]
    for cell in findings.composition.cells:
        assert (cell.reranked[4].value, cell.any_of[4].value) == (1.0, 1.0)
        assert (cell.first.count, cell.reranked[4].count, cell.reranked[16].count) == (5, 5, 2)
        assert cell.reranked[16].value == 1.0
        assert cell.first.right <= 1  # only a caption of the wrong image itself


def test_samples_are_the_first_captions_with_their_first_and_chosen_candidates(findings):
    group = findings.samples[1]
    assert (group.level, group.split) == (1, "held_out")
    assert tuple(one.caption for one in group.samples) == evaluation_captions(1, "held_out", 5, 0)[:3]
    for sample in group.samples:
        assert (sample.first.index, sample.chosen.index, sample.chosen_of) == (0, 2, 4)
        assert (sample.first.score, sample.chosen.score, sample.chosen.right) == (0.0, 1.0, True)


def test_another_seed_evaluates_other_captions(findings):
    fake = FakePipeline(right={2})
    other = evaluate_scenes(fake, fake, fake, replace(CONFIG, levels=(1,), many_captions=0, seed=5), lambda line: None)
    shown = [sample.caption for sample in other.samples[0].samples]
    assert shown == list(evaluation_captions(1, "seen", 5, 5)[:3])
    assert shown != [sample.caption for sample in findings.samples[0].samples]


def test_guidance_draws_one_candidate_at_each_scale(findings):
    assert [point.scale for point in findings.guidance] == [1.0, 3.0]
    assert {cell.first.count for point in findings.guidance for cell in point.composition.cells} == {3}
    assert {cell.chosen_of for point in findings.guidance for cell in point.composition.cells} == {1}


def test_the_best_scale_is_that_of_the_most_right_images_over_all_cells_and_the_lower_of_equal_ones():
    def point(scale: float, *right: int) -> GuidancePoint:
        shares = [share_of([True] * one + [False] * (4 - one)) for one in right]
        cells = [Cell(level, "seen", share, {}, {}, 1, ()) for level, share in enumerate(shares)]
        return GuidancePoint(scale, Composition(tuple(cells)))

    assert best_scale([point(3.0, 2, 2), point(1.0, 4, 0), point(2.0, 4, 1)]) == 2.0
    assert best_scale([point(3.0, 2, 2), point(1.5, 4, 0)]) == 1.5
    assert best_scale([]) is None


def test_an_exact_tokenizer_is_measured_as_one(findings):
    assert (findings.reconstruction.psnr, findings.reconstruction.count) == (PSNR_LIMIT, 8)
    assert findings.reconstruction.still_right == findings.reconstruction.read_right
    assert [np.array_equal(one.original, one.reconstruction) for one in findings.reconstructed] == [True] * 6


def test_a_decoder_of_pixels_has_no_reconstructions():
    fake, said = FakePipeline(right={2}), []
    few = replace(CONFIG, levels=(1,), captions=2, many_captions=0, guidance_captions=0)
    found = evaluate_scenes(fake, None, fake, few, said.append)
    assert found.reconstruction is None and found.reconstructed == () and found.zero_shot.count == 4
    assert found.to_json().keys() == {"composition", "atoms", "guidance", "clip"}
    assert not any("reconstruction" in line for line in said)


def test_evaluation_json_has_the_documented_keys(findings):
    content = findings.to_json()
    assert content.keys() == {"reconstruction", "composition", "atoms", "guidance", "clip"}
    assert content["guidance"].keys() == {"1", "3"}
    assert content["clip"] == {
        "zero_shot": findings.zero_shot.value,
        "zero_shot_ensemble": findings.zero_shot_ensemble.value,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"many_candidates": 4}, r"many_candidates: expected more than drawing.candidates \(4\), got 4"),
        ({"many_captions": 6}, r"many_captions: expected at most captions \(5\), got 6"),
    ],
)
def test_contradictory_numbers_are_refused(changes, message):
    given = {"levels": (1,), "captions": 5, "drawing": CONFIG.drawing, "many_captions": 2} | changes
    with pytest.raises(ValueError, match=message):
        EvaluateScenes(**given)
