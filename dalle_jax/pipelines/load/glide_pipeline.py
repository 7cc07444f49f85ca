"""GLIDE from the folder that ``import`` writes: ``glide.gin`` next to a model folder for each network."""

from dataclasses import replace
from typing import NamedTuple

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.models.clip import Clip
from dalle_jax.models.glide import GlideConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.imported.glide import GlideFile, GlideNetworks, GlidePipeline
from dalle_jax.pipelines.load.models import load_clip, load_network
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.storage import Place
from dalle_jax.untrusted import read_text_file

GLIDE = "glide.gin"
GLIDE_PARTS = ("base", "upsampler")


def read_glide_file(folder: Place) -> GlideFile:
    """Read ``glide.gin``."""
    return loads(read_text_file(folder / GLIDE), GlideFile, name=str(folder / GLIDE))


class GuidingClip(NamedTuple):
    """The folder of a CLIP that guides, and the scale of its guidance."""

    folder: Place
    scale: float


def guiding_clip(folder: Place | None, scale: float | None) -> GuidingClip | None:
    """Return the CLIP that guides, None without one. Raise UserError for a folder without a scale, or the reverse."""
    if folder is None and scale is None:
        return None
    if folder is None or scale is None:
        raise UserError(f"clip_scale: expected a scale and a CLIP that guides (guide_clip), got {scale} and {folder}")
    return GuidingClip(folder, scale)


def load_glide(
    folder: Place,
    *,
    ranker: ClipRanker | None = None,
    steps: int | None = None,
    batch: int = 64,
    layout: Layout | None = None,
    guide: GuidingClip | None = None,
) -> GlidePipeline:
    """Load the networks and the text tokenizer. ``steps`` replaces the base's."""
    file = read_glide_file(folder)
    if steps is not None:
        if not 2 <= steps <= 1000:
            raise UserError(f"steps: expected between 2 and 1000, got {steps}")
        file = replace(file, steps=steps)
    base, upsampler = (load_network(folder / part, (GlideConfig,), layout) for part in GLIDE_PARTS)
    prompts = TextPrompts(load_text(folder / "base", base.config.text_length))
    if guide is None:
        networks = GlideNetworks(base, upsampler)
        return GlidePipeline(networks, prompts, file, ranker=ranker, batch=batch, layout=layout)
    clip = _guiding_clip(guide.folder, file.base_side, layout)
    text = load_text(guide.folder, clip.config.text_length)
    networks = GlideNetworks(base, upsampler, clip)
    return GlidePipeline(
        networks, prompts, file, ranker=ranker, guide_text=text, clip_scale=guide.scale, batch=batch, layout=layout
    )


def _guiding_clip(folder: Place, side: int, layout: Layout | None) -> Clip:
    """Load a CLIP that was trained on noised images. Raise UserError for another one."""
    clip, steps = load_clip(folder, layout), CosineNoise().steps
    if (clip.config.timesteps, clip.config.image_size) != (steps, side):
        raise UserError(
            f"{folder}: expected a CLIP of images of {side} px that was trained on the noise of {steps} timesteps "
            f"(task.noise = @CosineNoise), got {clip.config.image_size} px and {clip.config.timesteps} timesteps"
        )
    return clip
