"""The pipeline of prior, decoder and image tokenizer, on small untrained networks."""

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx
from small_unclip import small_unclip

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler
from dalle_jax.models.clip import Clip
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.prior import Prior, PriorOptions
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.unclip import Unclip, UnclipNetworks

PROMPTS = ("a red circle", "a blue square", "a red square")


@pytest.fixture(scope="module")
def parts():
    return small_unclip()


def pipeline(parts, sees="embedding", batch=8, steps=2, prior=None, layout=None) -> Unclip:
    clip, decoder, tokenizer, text = parts
    networks = UnclipNetworks(TextVectorPrior() if prior is None else prior, clip, decoder)
    codec, options = ImageCodec(tokenizer, layout=layout), PriorOptions(steps=3)
    return Unclip(
        networks, codec, TextPrompts(text), ClipRanker(clip, text, layout=layout), sees=sees, steps=steps,
        prior=options, batch=batch, layout=layout,
    )  # fmt: skip


def requests(prompts, **options) -> list[Request]:
    shared = {"candidates": 2, "keep": 1, "guidance": 2.0} | options
    return [Request(prompt, RequestOptions(**shared, seed=number)) for number, prompt in enumerate(prompts)]


def test_the_images_of_a_request_depend_on_its_prompt_and_seed_alone(parts):
    unclip = pipeline(parts)
    assert isinstance(unclip, ImageSampler) and isinstance(TextVectorPrior(), Prior)
    together = unclip.draw(requests(PROMPTS))
    alone = pipeline(parts, batch=2).draw(requests(PROMPTS)[1:2])[0]
    np.testing.assert_array_equal(together[1].candidates, alone.candidates)
    assert together[0].candidates.shape == (2, 16, 16, 3)
    assert not np.array_equal(alone.candidates[0], alone.candidates[1])
    other = unclip.draw([replace(requests(PROMPTS)[1], options=RequestOptions(candidates=2, guidance=2.0, seed=9))])[0]
    assert not np.array_equal(other.candidates, alone.candidates)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4], ids=["candidates are split", "prompts are split"])
def test_a_mesh_draws_the_images_of_one_device(parts, count):
    layout = Layout(make_mesh(Mesh(data=2, fsdp=2, tensor=2)), Rules())
    wanted = requests((PROMPTS * 2)[:count], candidates=4 // count)
    ours, expected = (pipeline(parts, sees="both", layout=place).draw(wanted) for place in (layout, None))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one.candidates, other.candidates)
        np.testing.assert_allclose(one.candidate_scores, other.candidate_scores, atol=1e-5)


def test_more_candidates_begin_with_the_same_ones_and_the_best_by_clip_is_kept(parts):
    unclip = pipeline(parts)
    two, four = (unclip.draw(requests(PROMPTS[:1], candidates=count))[0] for count in (2, 4))
    np.testing.assert_array_equal(four.candidates[:2], two.candidates)
    assert four.chosen[0] == four.candidate_scores.argmax()
    later = unclip.draw(requests(PROMPTS[:1], candidates=2, first=2))[0]
    np.testing.assert_array_equal(four.candidates[2:], later.candidates)


def test_the_transformer_prior_of_unclip_draws_an_image_vector_for_each_candidate(parts):
    sizes = {"embed_width": 6, "text_width": 8, "text_length": 6, "width": 16, "depth": 1, "heads": 2}
    prior = DiffusionPriorConfig(**sizes).build(nnx.Rngs(5))
    drawn = pipeline(parts, prior=prior).draw(requests(PROMPTS))
    assert not np.array_equal(drawn[1].candidates[0], drawn[1].candidates[1])
    alone = pipeline(parts, prior=prior).draw(requests(PROMPTS)[1:2])[0]
    np.testing.assert_array_equal(drawn[1].candidates, alone.candidates)


@pytest.mark.parametrize("sees", ["embedding", "caption"])
def test_the_decoder_reads_only_the_inputs_that_it_is_said_to_see(parts, sees):
    """Other weights of the part that is not seen change no image."""
    clip, decoder, tokenizer, text = parts
    turned = nnx.clone(decoder)
    unseen = turned.tokens.table if sees == "embedding" else turned.clip_condition.kernel
    unseen[...] = unseen[...].at[1:].multiply(-3.0)
    drawn = [
        pipeline((clip, one, tokenizer, text), sees).draw(requests(PROMPTS[:1], guidance=1.0))[0].candidates
        for one in (decoder, turned)
    ]
    if sees == "embedding":
        np.testing.assert_array_equal(*drawn)
    else:
        seen = pipeline((Clip(clip.config, rngs=nnx.Rngs(8)), decoder, tokenizer, text), sees)
        np.testing.assert_array_equal(drawn[0], seen.draw(requests(PROMPTS[:1], guidance=1.0))[0].candidates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.7}, "temperature: expected its default"),
        ({"top_k": 3}, "top_k"),
        ({"top_p": 0.5}, "top_p"),
        ({"guidance_end": 5.0}, "guidance_end: expected none for a diffusion model, .*, got 5"),
    ],
)
def test_options_of_autoregressive_sampling_are_refused(parts, options, message):
    with pytest.raises(UserError, match=message):
        pipeline(parts).draw(requests(PROMPTS[:1], **options))


def test_inputs_of_other_kinds_are_refused(parts):
    unclip = pipeline(parts)
    with pytest.raises(UserError, match="given_image: expected none"):
        unclip.draw([Request("a red circle", given_image=np.zeros((4, 16, 3), np.uint8))])
    with pytest.raises(UserError, match="prompt: expected a text, got int"):
        unclip.draw([Request(3)])
    with pytest.raises(UserError, match="steps: expected at least 1, got 0"):
        pipeline(parts, steps=0)
