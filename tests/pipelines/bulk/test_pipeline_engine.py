"""Bulk sampling with pipelines that draw by their own calls."""

import numpy as np
import pytest
from fake_engine import kept_images
from small_unclip import small_unclip

from dalle_jax.config.errors import UserError
from dalle_jax.models.priors.prior import PriorOptions
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.pipelines.bulk.pipeline_engine import alike
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, PromptFiles
from dalle_jax.pipelines.bulk.run_job import run_job
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.unclip import Unclip, UnclipNetworks

PROMPTS = ("a red circle", "a blue square", "a red square")
DEFAULTS = RequestOptions(candidates=4, keep=2, guidance=2.0)


@pytest.fixture(scope="module")
def unclip() -> Unclip:
    clip, decoder, tokenizer, text = small_unclip()
    networks = UnclipNetworks(TextVectorPrior(), clip, decoder)
    ranker = ClipRanker(clip, text)
    return Unclip(
        networks, ImageCodec(tokenizer), TextPrompts(text), ranker, steps=2, prior=PriorOptions(steps=3), batch=4
    )


def run(unclip, tmp_path, *lines: str) -> str:
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    files = PromptFiles([str(tmp_path / "prompts.jsonl")], DEFAULTS)
    survey = files.survey()
    return run_job(lambda: unclip, files, survey, BulkJob.of(survey, {}, {}, 2), tmp_path / "out")


def test_an_unclip_writes_the_images_of_its_plain_call(unclip, tmp_path, capsys):
    line = run(unclip, tmp_path, *(f'{{"prompt": "{prompt}"}}' for prompt in PROMPTS))
    assert "has 6 images of 3 prompts in 2 tars" in line
    plain = unclip(list(PROMPTS), candidates=4, keep=2, guidance=2.0)
    images = kept_images(tmp_path / "out")
    np.testing.assert_array_equal([image for _, image in images], np.concatenate([one.pixels for one in plain]))
    assert [record["candidate"] for record, _ in images] == [int(number) for one in plain for number in one.chosen]


def test_rows_with_options_that_diffusion_does_not_have_are_named(unclip, tmp_path):
    rows = ('{"prompt": "a", "top_k": 3}', '{"prompt": "b"}', '{"prompt": "c", "negative_prompt": "d"}')
    with pytest.raises(UserError) as caught:
        run(unclip, tmp_path, *rows)
    first, second = str(caught.value).splitlines()
    assert "prompts.jsonl: row 1: top_k: expected its default" in first
    assert "prompts.jsonl: row 3: negative_prompt: expected none for a diffusion model, got 'd'" in second


def test_calls_have_requests_of_equal_candidates_and_at_most_a_batch():
    counts = [4, 4, 4, 2, 2, 30, 4]
    given = [NumberedRequest(n, Request("a", RequestOptions(candidates=m, keep=1))) for n, m in enumerate(counts)]
    assert [[one.number for one in group] for group in alike(given, 8)] == [[0, 1], [2], [3, 4], [5], [6]]
