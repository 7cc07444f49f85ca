"""Loaded pipelines as served models."""

from dalle_jax.pipelines.load.pipeline import AnyPipeline
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.transformer_model import TransformerModel
from dalle_jax.serve.engine.unclip_model import UnclipModel


def served_model(name: str, pipeline: AnyPipeline) -> PipelineModel:
    """Return the model of a pipeline. Images of codes share a running batch; all others are drawn by calls."""
    if isinstance(pipeline, TextToImage):
        return TransformerModel(name, pipeline)
    return UnclipModel(name, pipeline) if isinstance(pipeline, Unclip) else PipelineModel(name, pipeline)
