import dataclasses
from typing import get_type_hints

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.pipelines.request import RequestKeywords, RequestOptions
from dalle_jax.sampling.options import SamplingKeywords, SamplingOptions


@pytest.mark.parametrize(
    ("options", "keywords"), [(SamplingOptions, SamplingKeywords), (RequestOptions, RequestKeywords)]
)
def test_the_keywords_of_a_call_are_the_fields_of_the_options(options, keywords):
    assert get_type_hints(keywords) == get_type_hints(options)


def test_an_evaluation_requests_the_images_of_its_own_options():
    drawing = Drawing(candidates=5, temperature=0.5, top_k=3, top_p=0.9, guidance=2.0, batch=7)
    first, second = (one.options for one in drawing.requests(("a", "b"), 10))
    assert first == RequestOptions(5, 0.5, 3, 0.9, 2.0, keep=1, seed=10)
    assert second == dataclasses.replace(first, seed=11)


@pytest.mark.parametrize(
    ("first", "last", "guided"), [(1.0, None, False), (1.0, 1.0, False), (1.0, 2.0, True), (2.0, 1.0, True)]
)
def test_guidance_is_off_only_if_it_is_off_for_all_codes(first, last, guided):
    assert SamplingOptions(guidance=first, guidance_end=last).guided == guided


@pytest.mark.parametrize("candidates", [1, 3, 4, 9])
def test_four_images_are_kept_by_default_or_all_if_there_are_fewer(candidates):
    assert RequestOptions(candidates=candidates).kept == min(4, candidates)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"candidates": 513}, "candidates: expected between 1 and 512, got 513"),
        ({"temperature": float("nan")}, "temperature: expected 0 or more, got nan"),
        ({"top_k": -1}, r"top_k: expected 0 \(off\) or more, got -1"),
        ({"top_p": 0.0}, r"top_p: expected in \(0, 1\], got 0.0"),
        ({"guidance": float("inf")}, r"guidance: expected 0 or more \(1 is off\), got inf"),
        ({"guidance_end": -1.0}, r"guidance_end: expected 0 or more \(1 is off\), got -1"),
        ({"candidates": 2, "keep": 3}, r"keep: expected between 1 and candidates \(2\), got 3"),
        ({"window": 0}, "window: expected between 1 and 256, got 0"),
        ({"likelihood_weight": float("nan")}, "likelihood_weight: expected a finite number, got nan"),
        ({"seed": 2**32}, r"seed: expected in \[0, 2\^32\), got 4294967296"),
        ({"first": -1}, "first: expected 0 or more, got -1"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_option(changes, says):
    with pytest.raises(UserError, match=says):
        RequestOptions(**changes)
