"""Forecasting heads from the folder of their training, checked against the transformer that they guess for."""

from typing import cast

from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import CachedGenerator, CodeGenerator
from dalle_jax.models.heads.forecast_heads import ForecastHeads, ForecastHeadsConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.model_fingerprints import fingerprint_of_model
from dalle_jax.pipelines.load.models import load_network
from dalle_jax.storage import Place


def add_forecast_heads(
    generator: CodeGenerator, transformer: Place, folder: Place, layout: Layout | None = None
) -> None:
    """Load the heads of ``folder`` into a transformer, in place. Raise ``UserError`` if they are those of another."""
    heads: ForecastHeads = load_network(folder, (ForecastHeadsConfig,), layout, in_compute_dtype=True)
    if heads.config.transformer != (fingerprint := fingerprint_of_model(transformer)):
        raise UserError(
            f"{folder}: expected forecasting heads of the transformer in {transformer} (fingerprint {fingerprint}), "
            f"got those of {heads.config.transformer}; train heads for it with task = @ForecastCodes"
        )
    cast(CachedGenerator, generator).forecast_heads = heads
