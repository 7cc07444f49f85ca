"""The evaluation of inpainting and outpainting: cases, the measure of a seam, and a run with an untrained unCLIP."""

import numpy as np
import pytest
from small_painters import unclip

from dalle_jax.evaluate.suites import evaluate_inpainting as suite
from dalle_jax.evaluate.suites.evaluate_inpainting import EvaluateInpainting, evaluate_inpainting, seam_ratio
from dalle_jax.scenes import grammar
from dalle_jax.scenes.perceive import perceive
from dalle_jax.scenes.rendering import render

CONFIG = EvaluateInpainting(cases=6, candidates=1, shown=1)


def test_a_seam_is_compared_with_the_other_columns():
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None], (2, 4, 8, 3)).copy()
    assert seam_ratio(ramp, 4) == 1
    ramp[:, :, 4:] += 5
    assert seam_ratio(ramp, 4) == 6


def test_a_case_hides_an_object_and_names_one_of_another_colour_and_shape():
    for level in (1, 2):
        for case in suite._inpainting_cases(level, CONFIG, 32):
            hole, wanted = case.hole, case.wanted
            covered = np.where(hole.hidden[..., None], hole.pixels[0, 0], hole.pixels)
            objects, left_over = perceive(hole.pixels).objects, perceive(covered).objects
            assert len(objects) == level and len(left_over) == level - 1
            assert grammar.parse(hole.prompt).objects[0] == wanted
            assert not suite._has(hole.pixels, case)


def test_the_reader_looks_for_the_object_in_the_hole_alone():
    case = suite._inpainting_cases(1, CONFIG, 32)[0]
    scene = grammar.parse(case.hole.prompt)
    right = render(scene, 32, np.random.default_rng(0))
    assert suite._has(right, case)
    elsewhere = suite._Case(suite.Hole(**(vars(case.hole) | {"hidden": ~case.hole.hidden})), case.wanted)
    assert not suite._has(right, elsewhere)


def test_the_cases_of_a_seed_are_the_first_of_a_longer_list():
    few, more = (
        [one.hole.prompt for one in suite._inpainting_cases(2, EvaluateInpainting(cases=count), 32)] for count in (2, 4)
    )
    assert more[:2] == few


@pytest.mark.slow
def test_an_untrained_model_leaves_all_other_pixels_and_puts_no_object_into_the_hole():
    said: list[str] = []
    inpainted, outpainted = evaluate_inpainting(
        unclip(batch=16), EvaluateInpainting(cases=2, candidates=2), said.append
    )
    values = {measure.key: measure.value for one in (inpainted, outpainted) for measure in one.measures}
    assert values["unmasked_equal"].value == 1.0 and values["unmasked_equal"].count == 4
    assert values["object_in_hole"].right == 0 and values["object_in_hole"].count == 4
    assert values["seam_ratio"] > 0 and values["completed"].count == 2
    assert [one.name for one in (inpainted, outpainted)] == ["inpaint", "outpaint"] and len(said) == 2
    assert len(inpainted.cases) == len(outpainted.cases) == 4
    assert all(len(case.images) == 3 for case in (*inpainted.cases, *outpainted.cases))
