"""Karlo from the folder that ``import karlo`` writes: ``karlo.gin`` next to a model folder for each network."""

from dataclasses import replace

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import ClipTextConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.karlo import Karlo, KarloFile, KarloNetworks
from dalle_jax.pipelines.load.models import load_network
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.storage import Place

KARLO = "karlo.gin"


def load_karlo(
    folder: Place,
    *,
    ranker: ClipRanker | None = None,
    steps: int | None = None,
    batch: int = 64,
    layout: Layout | None = None,
) -> Karlo:
    """Load the networks and the text tokenizer. ``steps`` replaces the decoder's."""
    file: KarloFile = loads((folder / KARLO).read_text(encoding="utf-8"), KarloFile, name=str(folder / KARLO))
    if steps is not None:
        if steps < 2:
            raise UserError(f"steps: expected at least 2, got {steps}")
        file = replace(file, decoder_steps=steps)
    text = load_network(folder / "text_encoder", (ClipTextConfig,), layout)
    networks = KarloNetworks(
        text,
        load_network(folder / "prior", (DiffusionPriorConfig,), layout),
        load_network(folder / "text_proj", (UnclipTextProjectionConfig,), layout),
        *(
            load_network(folder / part, (UNetConfig,), layout)
            for part in ("decoder", "super_res_first", "super_res_last")
        ),
    )
    prompts = TextPrompts(load_text(folder / "text_encoder", text.config.text_length))
    return Karlo(networks, prompts, file, ranker=ranker, batch=batch, layout=layout)
