"""Small untrained pipelines for tests, of images of 16 px: an unCLIP of codes, a transformer of them, one of pixels."""

import functools

import jax
from flax import nnx
from small_unclip import CLIP, LENGTH, VOCABULARY, SmallUnclip, small_unclip, small_words

from dalle_jax.config.render import render
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import ImageSampling
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile, absolute_needs
from dalle_jax.pipelines.pixel_unclip import PixelNetworks, PixelSampling, PixelUnclip
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip, UnclipNetworks
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.small_denoisers import UPSAMPLER, decoder_config, random_module

DALLE = DalleConfig(
    text_vocab=VOCABULARY, text_length=LENGTH, codebook_size=16, grid=(4, 4), width=12, depth=1, heads=2, head_size=4,
    attention=("full",),
)  # fmt: skip


@functools.cache
def parts() -> SmallUnclip:
    """Return the networks, initialised in one compiled call."""
    graph, text = [], []

    @jax.jit
    def states():
        *networks, words = small_unclip()
        split = [nnx.split(one) for one in networks]
        graph[:], text[:] = [one[0] for one in split], [words]
        return [one[1] for one in split]

    drawn = states()
    return SmallUnclip(*(nnx.merge(*one) for one in zip(graph, drawn, strict=True)), *text)


def unclip(batch=8) -> Unclip:
    clip, decoder, tokenizer, text = parts()
    networks, ranker = UnclipNetworks(TextVectorPrior(), clip, decoder), ClipRanker(clip, text)
    return Unclip(networks, ImageCodec(tokenizer), TextPrompts(text), ranker, steps=2, batch=batch)


def transformer(batch=8, ranked=True) -> TextToImage:
    clip, _, tokenizer, text = parts()
    generator, ranker = DALLE.build(nnx.Rngs(3)), ClipRanker(clip, text) if ranked else None
    return TextToImage(generator, ImageCodec(tokenizer), TextPrompts(text), ranker, batch=batch)


TWO_STEPS = ImageSampling(Ddim(), steps=2)


def pixel_unclip(batch=8, inpaints=True) -> PixelUnclip:
    """Return a decoder of 8 px, which reads known pixels if it ``inpaints``, and an upsampler."""
    clip, text, config = parts().clip, parts().text, decoder_config(VOCABULARY)
    decoder, upsampler = (random_module(lambda one=one: one.build(nnx.Rngs(0))) for one in (config, UPSAMPLER))
    if inpaints:
        decoder = decoder.with_extra_channels()
        kernel = decoder.unet.input.kernel
        kernel[...] = kernel[...].at[:, :, 3:].set(0.2)
    networks, ranker = PixelNetworks(TextVectorPrior(), clip, decoder), ClipRanker(clip, text)
    sampling = PixelSampling(TWO_STEPS, (TWO_STEPS,), tiles=Tiles(side=12, overlap=4), together=4)
    return PixelUnclip(networks, [upsampler], TextPrompts(text), ranker, sampling=sampling, batch=batch)


def write_pixel_unclip(folder: Place) -> None:
    """Write the networks of ``pixel_unclip``, without a prior, and ``pipeline.gin`` of 2 steps into a folder."""
    decoder = random_module(lambda: decoder_config(VOCABULARY).build(nnx.Rngs(0))).with_extra_channels()
    upsampler, words = random_module(lambda: UPSAMPLER.build(nnx.Rngs(0))), {"text.model": small_words()}
    needs = absolute_needs(clip=str(folder / "clip"))
    for name, network, file, files in (
        ("clip", parts().clip, ModelFile(CLIP), words),
        ("decoder", decoder, ModelFile(decoder.config, needs), words),
        ("upsampler", upsampler, ModelFile(UPSAMPLER), {}),
    ):
        save_weights(folder / name, network, render(file), {"model.gin": render(file).encode(), **files})
    places = {name: name for name in ("clip", "decoder", "upsampler")}
    (folder / "pipeline.gin").write_text(render(PipelineFile(places, steps=2)))
