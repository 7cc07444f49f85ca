"""The pipeline of prior, pixel decoder and upsamplers, on small untrained networks and from their folder."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from small_unclip import CLIP, LENGTH, VOCABULARY, small_words

import dalle_jax
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import ImageSampling
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler
from dalle_jax.models.clip import Clip
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile, absolute_needs
from dalle_jax.pipelines.pixel_unclip import PixelNetworks, PixelSampling, PixelUnclip
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.text.sentencepiece import SentencePiece
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.small_denoisers import UPSAMPLER, decoder_config, random_module

DECODER = decoder_config(VOCABULARY)
TWO_STEPS = ImageSampling(Ddim(), steps=2)
SAMPLING = PixelSampling(TWO_STEPS, (TWO_STEPS,), tiles=Tiles(side=12, overlap=4), together=3)
PROMPTS = ("a red circle", "a blue square")


@pytest.fixture(scope="module")
def networks():
    clip = Clip(CLIP, rngs=nnx.Rngs(2))
    decoder, upsampler = (random_module(lambda one=one: one.build(nnx.Rngs(0))) for one in (DECODER, UPSAMPLER))
    return clip, decoder, upsampler


def pipeline(networks, batch=4, sampling=SAMPLING, layout=None) -> PixelUnclip:
    clip, decoder, upsampler = networks
    text = SentencePiece(small_words(), LENGTH)
    parts = PixelNetworks(TextVectorPrior(), clip, decoder)
    return PixelUnclip(
        parts, [upsampler], TextPrompts(text), ClipRanker(clip, text, layout=layout), sees="both", sampling=sampling,
        batch=batch, layout=layout,
    )  # fmt: skip


def requests(**options) -> list[Request]:
    shared = {"candidates": 2, "keep": 1, "guidance": 2.0} | options
    return [Request(prompt, RequestOptions(**shared, seed=number)) for number, prompt in enumerate(PROMPTS)]


def test_an_image_depends_on_its_prompt_and_seed_alone_through_all_networks(networks):
    unclip = pipeline(networks)
    assert isinstance(unclip, ImageSampler) and unclip.side == 16 and unclip.steps == 2
    together = unclip.draw(requests())
    alone = pipeline(networks, batch=2).draw(requests()[1:])[0]
    assert together[1].candidates.shape == (2, 16, 16, 3)
    assert np.abs(together[1].candidates.astype(int) - alone.candidates).max() <= 1  # rounding of other batches
    assert not np.array_equal(alone.candidates[0], alone.candidates[1])
    assert alone.chosen[0] == alone.candidate_scores.argmax()
    with pytest.raises(UserError, match="temperature: expected its default"):
        unclip.draw([replace(requests()[0], options=RequestOptions(temperature=0.5))])


@pytest.mark.slow
def test_a_mesh_draws_the_images_of_one_device(networks):
    layout = Layout(make_mesh(Mesh(data=2, fsdp=2)), Rules())
    ours, expected = (pipeline(networks, layout=place).draw(requests()) for place in (layout, None))
    for one, other in zip(ours, expected, strict=True):
        assert np.abs(one.candidates.astype(int) - other.candidates).max() <= 1


def test_an_embedding_decodes_to_one_image_for_each_key(networks):
    vectors = np.eye(6, dtype=np.float32)[:2]
    keys = jax.random.split(jax.random.key(0), 2)
    images = pipeline(networks).decode(vectors, keys, guidance=1.0)
    assert images.shape == (2, 16, 16, 3) and images.dtype == np.uint8
    again = pipeline(networks).decode(vectors[::-1], keys[::-1], guidance=1.0)
    assert np.abs(images[::-1].astype(int) - again).max() <= 1


def test_more_upsamplers_than_their_sampling_are_refused(networks):
    with pytest.raises(UserError, match="upsamplers: expected at most 0, got 1"):
        pipeline(networks, sampling=replace(SAMPLING, upsamplers=()))


def test_a_folder_of_a_pixel_decoder_is_loaded_with_its_upsampler(networks, tmp_path):
    clip, decoder, upsampler = networks
    needs, words = absolute_needs(clip=str(tmp_path / "clip")), {"text.model": small_words()}
    for name, network, file, files in (
        ("clip", clip, ModelFile(CLIP), words),
        ("decoder", decoder, ModelFile(DECODER, needs), words),
        ("upsampler", upsampler, ModelFile(UPSAMPLER), {}),
    ):
        save_weights(tmp_path / name, network, render(file), {"model.gin": render(file).encode(), **files})
    places = {name: name for name in ("clip", "decoder", "upsampler")}
    (tmp_path / "pipeline.gin").write_text(render(PipelineFile(places, steps=3)))
    loaded = dalle_jax.load(tmp_path, sees="both")
    assert isinstance(loaded, PixelUnclip) and (loaded.steps, loaded.side) == (3, 16)
    vectors, keys = np.eye(6, dtype=np.float32)[:1], jax.random.split(jax.random.key(0), 1)
    own = PixelSampling(replace(PixelSampling().decoder, steps=3))
    expected = pipeline(networks, sampling=own).decode(vectors, keys, guidance=1.0)
    np.testing.assert_array_equal(loaded.decode(vectors, keys, guidance=1.0), expected)
    with pytest.raises(UserError, match="steps: expected at least 2 for a pixel decoder, got 1"):
        dalle_jax.load(tmp_path, steps=1)
    (tmp_path / "pipeline.gin").write_text(render(PipelineFile({**places, "image_tokenizer": "x"})))
    with pytest.raises(UserError, match="image_tokenizer: expected none for a pixel decoder"):
        dalle_jax.load(tmp_path)
