"""Small untrained served models of every kind, each with a prompt that it reads."""

from dalle_jax.models.clip import TowerConfig
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.models.glide import GlideConfig
from dalle_jax.models.priors.prior import PriorOptions
from dalle_jax.models.prompt_kinds import ByClass
from dalle_jax.models.unet import UNetConfig
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.imported.glide import GlideFile, GlideNetworks, GlidePipeline
from dalle_jax.pipelines.imported.karlo import Karlo, KarloFile
from dalle_jax.pipelines.prompts import ClassPrompts, PromptReader, TextPrompts
from dalle_jax.pipelines.text_to_image import TextToImage
from tests.small_generators import dalle_bart, llamagen
from tests.small_karlo import LENGTH, WORDS, random_parameters, small_karlo
from tests.small_painters import parts, pixel_unclip, transformer, unclip
from tests.small_unclip import LENGTH as TEXT_LENGTH
from tests.small_unclip import VOCABULARY

WORDS_OF = {"glide": "ab", "glide-inpaint": "ab", "karlo": "ab", "llamagen": "3"}
"""The prompts of models that read the letters of small_karlo, or classes; all others read "a red circle"."""
CODES = {"codebook_size": 16, "grid": (4, 4)}


def small_glide_pipeline(inpaints: bool, batch: int = 4) -> GlidePipeline:
    """Return a base of 4 px in 4 steps and an upsampler to 8 px."""
    extra = 4 if inpaints else 0
    networks = [
        random_parameters(
            GlideConfig(
                UNetConfig(32, (1,), 1, (0,), head_size=16, context_width=4, extra_channels=own), vocab_size=10,
                text_length=LENGTH, text=TowerConfig(4, 1, 2),
            ),
            own,
        )
        for own in (extra, extra + 3)
    ]  # fmt: skip
    return GlidePipeline(GlideNetworks(*networks), TextPrompts(WORDS), GlideFile(4, 8, 3.0, 4), batch=batch)


def small_karlo_pipeline(batch: int = 4) -> Karlo:
    """Return a decoder of 4 px in 3 steps and upsamplers to 8 px."""
    file = KarloFile(4, 8, PriorOptions(steps=2, draws=1), decoder_steps=3, upsampler_steps=3)
    return Karlo(small_karlo(), TextPrompts(WORDS), file, batch=batch)


def without_clip(generator: CodeGenerator, prompts: PromptReader) -> TextToImage:
    """Return a transformer of the small image tokenizer's codes, whose images no CLIP scores."""
    return TextToImage(generator, ImageCodec(parts().tokenizer), prompts, batch=4)


def small_mini() -> TextToImage:
    """Return a DALL·E mini."""
    bart = dalle_bart(text_vocab=VOCABULARY, text_length=TEXT_LENGTH, **CODES)
    return without_clip(bart, TextPrompts(parts().text))


PIPELINES = {
    "transformer": lambda: transformer(batch=4),
    "dall-e mini": small_mini,
    "llamagen": lambda: without_clip(llamagen(**CODES), ClassPrompts(ByClass(5))),
    "unclip of codes": lambda: unclip(batch=4).with_steps(4),
    "unclip of pixels": lambda: pixel_unclip(batch=4),
    "karlo": small_karlo_pipeline,
    "glide": lambda: small_glide_pipeline(inpaints=False),
    "glide-inpaint": lambda: small_glide_pipeline(inpaints=True),
}
