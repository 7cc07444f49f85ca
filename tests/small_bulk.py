"""A small text-to-image pipeline and its prompts, for tests of bulk sampling."""

from flax import nnx

from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece

LENGTH = 5
WORDS = [f"a {colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "square", "ring")]


def small_pipeline(
    batch: int = 8, ranked: bool = True, clip_size: int = 8, layout: Layout | None = None
) -> TextToImage:
    """Return a pipeline of images of 8 x 8 px from 4 codes; each call has the same parameters."""
    text = SentencePiece(train_sentencepiece(WORDS * 5, 40, "bpe", 0), LENGTH)
    vocabulary = text.vocab_size
    dalle = DalleConfig(
        text_vocab=vocabulary, text_length=LENGTH, codebook_size=16, grid=(2, 2), width=8, depth=1, heads=1,
        head_size=8,
    )  # fmt: skip
    vqvae = VqvaeConfig(
        downsample=4, width=8, blocks=0, codebook_size=16, code_width=4, stem="patch", block_kernels=(1,)
    )
    tower = TowerConfig(width=8, layers=1, heads=1)
    clip = ClipConfig(
        image_size=clip_size, patch=4, vision=tower, vocab_size=vocabulary, text_length=LENGTH, text=tower,
        embed_width=8,
    )  # fmt: skip
    return TextToImage(
        Dalle(dalle, rngs=nnx.Rngs(0)),
        ImageCodec(Vqvae(vqvae, rngs=nnx.Rngs(1)), batch, layout),
        TextPrompts(text),
        ClipRanker(Clip(clip, rngs=nnx.Rngs(2)), text, batch, layout) if ranked else None,
        batch,
        layout,
    )
