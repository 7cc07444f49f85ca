"""A small untrained unCLIP and a small untrained transformer over the same image tokenizer, of 16 px, for tests."""

import functools

import jax
from flax import nnx

from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.code_denoiser import CodeDenoiserConfig
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import TextVectorPrior, Unclip, UnclipNetworks
from dalle_jax.scenes.scene import COLOURS, SHAPES
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece

TOWER = TowerConfig(width=8, layers=1, heads=2)
CODES = {"codebook_size": 16, "code_width": 4, "grid": (4, 4)}


def built(config, seed: int):
    """Return a network that is initialised in one compiled call."""
    graph = nnx.split(nnx.eval_shape(lambda: config.build(nnx.Rngs(seed))))[0]
    return nnx.merge(graph, jax.jit(lambda: nnx.split(config.build(nnx.Rngs(seed)))[1])())


@functools.cache
def parts() -> tuple[SentencePiece, Clip, Vqvae]:
    words = train_sentencepiece([f"a big {c} {s}" for c, s in zip(COLOURS, SHAPES * 2, strict=False)], 60, "bpe", 0)
    text = SentencePiece(words, 6)
    sizes = {"image_size": 16, "patch": 8, "vocab_size": text.vocab_size, "text_length": 6, "embed_width": 6}
    clip = built(ClipConfig(**sizes, vision=TOWER, text=TOWER), 2)
    stem = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch")
    return text, clip, built(stem, 1)


def unclip(batch=8, sees="embedding") -> Unclip:
    text, clip, tokenizer = parts()
    sizes = {"text_vocab": text.vocab_size, "text_length": 6, "embed_width": 6, "width": 16, "layers": 1, "heads": 2}
    decoder = built(CodeDenoiserConfig(**sizes, **CODES), 0)
    decoder.set_code_vectors(tokenizer.code_vectors)
    networks = UnclipNetworks(TextVectorPrior(), clip, decoder)
    codec, ranker = ImageCodec(tokenizer), ClipRanker(clip, text)
    return Unclip(networks, codec, TextPrompts(text), ranker, sees=sees, steps=2, batch=batch)


def transformer(batch=8, ranked=True) -> TextToImage:
    text, clip, tokenizer = parts()
    config = DalleConfig(
        text_vocab=text.vocab_size, text_length=6, codebook_size=16, grid=(4, 4), width=12, depth=1, heads=2,
        head_size=4, attention=("full",),
    )  # fmt: skip
    ranker = ClipRanker(clip, text) if ranked else None
    return TextToImage(built(config, 3), ImageCodec(tokenizer), TextPrompts(text), ranker, batch=batch)
