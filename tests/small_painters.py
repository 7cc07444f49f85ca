"""A small untrained unCLIP and a small untrained transformer of the same codes, of images of 16 px, for tests."""

import functools

import jax
from flax import nnx
from small_unclip import LENGTH, VOCABULARY, SmallUnclip, small_unclip

from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip, UnclipNetworks

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
