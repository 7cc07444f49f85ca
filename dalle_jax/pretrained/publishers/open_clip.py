"""open_clip's folders: open_clip_config.json and weights with OpenAI's names."""

import dataclasses
from pathlib import Path

from dalle_jax.models.clip import PIXEL_MEAN, PIXEL_STD, ClipConfig
from dalle_jax.models.clip_resnet import HEAD_WIDTH, ResNetConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import refused
from dalle_jax.pretrained.publisher import (
    Json,
    Published,
    first_file,
    licence_beside,
    read_json,
    refuse_flags,
    vocabulary_beside,
)
from dalle_jax.pretrained.publishers.clip_rules import openai_rules
from dalle_jax.pretrained.publishers.openai_clip import IGNORED, config_of
from dalle_jax.text.clip_bpe import ClipBpe

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
MODEL = {
    "embed_dim": ...,
    "vision_cfg": ...,
    "text_cfg": ...,
    "quick_gelu": ...,
    "init_logit_bias": ...,
    "init_logit_scale": ...,
}
VISION = {"image_size": ..., "layers": ..., "width": ..., "head_width": ..., "patch_size": ..., "mlp_ratio": ...}
TEXT = {"context_length": ..., "vocab_size": ..., "width": ..., "heads": ..., "layers": ..., "mlp_ratio": ...}
UNTRAINED = frozenset({"patch_dropout"})
"""What matters only while it is trained there."""


def published(source: Path) -> Published:
    """The CLIP in a folder; what its config asks for and is not implemented is refused by name."""
    path = source / CONFIG
    whole = read_json(path)
    model = whole.get("model_cfg", whole)
    if not isinstance(model, dict):
        raise refused(path, "an object model_cfg", type(model).__name__)
    refuse_flags(path, model, MODEL)
    for name, known in (("vision_cfg", VISION), ("text_cfg", TEXT)):
        if not isinstance(model.get(name), dict):
            raise refused(path, f"an object {name}", type(model.get(name)).__name__)
        refuse_flags(path, model[name], known, UNTRAINED)
    vision, text = model["vision_cfg"], model["text_cfg"]
    weights = first_file(source, WEIGHTS)
    tensors = read_tensors(weights).without_wrapper()
    config = config_of(
        tensors,
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        head_width=vision.get("head_width", HEAD_WIDTH),
        text_heads=text.get("heads", 8),
    )
    if isinstance(config.vision, ResNetConfig) and vision.get("head_width", HEAD_WIDTH) != HEAD_WIDTH:
        raise refused(path, f"head_width = {HEAD_WIDTH} of a ResNet", str(vision["head_width"]))
    config = _with_preprocessing(config, whole.get("preprocess_cfg") or {}, path)
    if "logit_bias" in tensors.stored:
        config = dataclasses.replace(config, initial_bias=float(model.get("init_logit_bias") or -10.0))
    return Published(
        config=config,
        tensors=tensors,
        rules=openai_rules(config),
        ignored=IGNORED,
        files=(path, *source_files(weights)),
        licence=licence_beside(source),
        vocabulary=ClipBpe(),
        vocabulary_file=vocabulary_beside(source),
    )


def _with_preprocessing(config: ClipConfig, preprocess: Json, path: Path) -> ClipConfig:
    return dataclasses.replace(
        config,
        pixel_mean=three(path, preprocess.get("mean", PIXEL_MEAN)),
        pixel_std=three(path, preprocess.get("std", PIXEL_STD)),
    )


def three(path: Path, values: object) -> tuple[float, float, float]:
    """A number for each of red, green and blue."""
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(x, int | float) for x in values):
        raise refused(path, "a mean and a std of three numbers", str(values)[:80])
    return float(values[0]), float(values[1]), float(values[2])
