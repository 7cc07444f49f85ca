"""Loaded pipelines as served models."""

from dalle_jax.pipelines.load.pipeline import AnyPipeline
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.served_model import ServedModel
from dalle_jax.serve.engine.transformer_model import TransformerModel


def served_model(name: str, pipeline: AnyPipeline) -> ServedModel:
    """Return the model of a pipeline: a transformer's images share a running batch, all others are drawn by calls."""
    return TransformerModel(name, pipeline) if isinstance(pipeline, TextToImage) else PipelineModel(name, pipeline)
