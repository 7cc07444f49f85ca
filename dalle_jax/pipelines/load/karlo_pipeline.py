"""Karlo from the folder that ``import karlo`` writes: ``karlo.gin`` next to a model folder for each network."""

from dataclasses import replace

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import ClipImageConfig, ClipTextConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.imported.karlo import Karlo, KarloFile
from dalle_jax.pipelines.imported.karlo_stages import KarloNetworks
from dalle_jax.pipelines.load.models import MODEL_FILE, load_network
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.storage import Place
from dalle_jax.untrusted import read_text_file

KARLO = "karlo.gin"
KARLO_PARTS = ("text_encoder", "prior", "text_proj", "decoder", "super_res_first", "super_res_last")


def read_karlo_file(folder: Place) -> KarloFile:
    """Read ``karlo.gin``."""
    return loads(read_text_file(folder / KARLO), KarloFile, name=str(folder / KARLO))


def load_karlo(
    folder: Place,
    *,
    ranker: ClipRanker | None = None,
    steps: int | None = None,
    batch: int = 64,
    layout: Layout | None = None,
) -> Karlo:
    """Load the networks, with the image encoder if it is there, and the text tokenizer.

    ``steps`` replaces the decoder's.
    """
    file = read_karlo_file(folder)
    if steps is not None:
        if steps < 2:
            raise UserError(f"steps: expected at least 2, got {steps}")
        file = replace(file, decoder_steps=steps)
    images = folder / "image_encoder"
    text = load_network(folder / "text_encoder", (ClipTextConfig,), layout)
    decoder, first, last = (
        load_network(folder / part, (UNetConfig,), layout) for part in ("decoder", "super_res_first", "super_res_last")
    )
    networks = KarloNetworks(
        text,
        load_network(folder / "prior", (DiffusionPriorConfig,), layout),
        load_network(folder / "text_proj", (UnclipTextProjectionConfig,), layout),
        decoder,
        first,
        last,
        load_network(images, (ClipImageConfig,), layout) if (images / MODEL_FILE).is_file() else None,
    )
    prompts = TextPrompts(load_text(folder / "text_encoder", text.config.text_length))
    return Karlo(networks, prompts, file, ranker=ranker, batch=batch, layout=layout)
