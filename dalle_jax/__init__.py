"""DALL·E and its family in JAX: image tokenizers, text-to-image transformers, CLIP, sampling and training."""

__version__ = "0.1.0"
