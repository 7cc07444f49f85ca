"""GLIDE from the folder that ``import`` writes: ``glide.gin`` next to a model folder for each network."""

from dataclasses import replace

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.models.glide import GlideConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.imported.glide import GlideFile, GlideNetworks, GlidePipeline
from dalle_jax.pipelines.load.models import load_network
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.storage import Place

GLIDE = "glide.gin"
GLIDE_PARTS = ("base", "upsampler")


def read_glide_file(folder: Place) -> GlideFile:
    """Read ``glide.gin``."""
    return loads((folder / GLIDE).read_text(encoding="utf-8"), GlideFile, name=str(folder / GLIDE))


def load_glide(
    folder: Place,
    *,
    ranker: ClipRanker | None = None,
    steps: int | None = None,
    batch: int = 64,
    layout: Layout | None = None,
) -> GlidePipeline:
    """Load the networks and the text tokenizer. ``steps`` replaces the base's."""
    file = read_glide_file(folder)
    if steps is not None:
        if not 2 <= steps <= 1000:
            raise UserError(f"steps: expected between 2 and 1000, got {steps}")
        file = replace(file, steps=steps)
    base, upsampler = (load_network(folder / part, (GlideConfig,), layout) for part in GLIDE_PARTS)
    prompts = TextPrompts(load_text(folder / "base", base.config.text_length))
    return GlidePipeline(GlideNetworks(base, upsampler), prompts, file, ranker=ranker, batch=batch, layout=layout)
