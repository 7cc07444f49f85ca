"""open_clip: a folder with open_clip_config.json and weights with OpenAI's names."""

import dataclasses
from pathlib import Path

from dalle_jax.models.clip import PIXEL_MEAN, PIXEL_STD, ClipConfig
from dalle_jax.models.clip_resnet import HEAD_WIDTH, ResNetConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import file_error
from dalle_jax.pretrained.publisher import (
    Json,
    Published,
    as_object,
    check_flags,
    find_file,
    positive_int,
    read_json,
    read_licence,
)
from dalle_jax.pretrained.publishers.clip_presets import find_open_clip
from dalle_jax.pretrained.publishers.openai_clip import config_from_shapes, with_openai_names
from dalle_jax.pretrained.signatures import OPENAI_CLIP, locate

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
DEFAULT_BIAS = -10.0
"""open_clip's initial bias of the sigmoid loss."""
TRAINING_ONLY = frozenset({"patch_dropout"})
"""Flags that only affect training."""


def published(source: Path) -> Published:
    """Read the CLIP in a folder; flags that are not implemented are refused by name."""
    path = source / CONFIG
    whole = read_json(path)
    model = as_object(path, "model_cfg", whole.get("model_cfg", whole))
    check_flags(path, model, MODEL)
    vision, text = (as_object(path, name, model.get(name)) for name in ("vision_cfg", "text_cfg"))
    check_flags(path, vision, VISION, TRAINING_ONLY)
    check_flags(path, text, TEXT, TRAINING_ONLY)
    head_width = positive_int(path, "vision_cfg.head_width", vision.get("head_width", HEAD_WIDTH))
    weights = find_file(source, WEIGHTS)
    tensors = locate(read_tensors(weights), OPENAI_CLIP)
    config = config_from_shapes(
        tensors,
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        head_width=head_width,
        text_heads=positive_int(path, "text_cfg.heads", text.get("heads", 8)),
    )
    if isinstance(config.vision, ResNetConfig) and head_width != HEAD_WIDTH:
        raise file_error(path, f"head_width = {HEAD_WIDTH} of a ResNet", str(head_width))
    preprocess = as_object(path, "preprocess_cfg", whole.get("preprocess_cfg") or {})
    config = _with_preprocessing(config, preprocess, path)
    if "logit_bias" in tensors.stored:
        bias = model.get("init_logit_bias") or DEFAULT_BIAS
        if not isinstance(bias, int | float):
            raise file_error(path, "init_logit_bias as a number", repr(bias)[:80])
        config = dataclasses.replace(config, initial_bias=float(bias))
    return with_openai_names(config, tensors, (path, *source_files(weights)), source, read_licence(source))


def published_preset(source: Path, preset: str) -> Published:
    """Read weights that open_clip's training saved (``epoch_32.pt``), of the model that a preset's name states.

    The file lacks the activation and the widths of heads, which the preset gives. All other sizes must be the preset's.
    """
    known = find_open_clip(preset)
    tensors = locate(read_tensors(source), OPENAI_CLIP)
    config = config_from_shapes(tensors, known.activation, known.head_width, known.text.text_width // HEAD_WIDTH)
    if differences := known.differences(config):
        raise file_error(source, f"the weights of {preset}", f"others: {', '.join(differences)}")
    if "logit_bias" in tensors.stored:
        config = dataclasses.replace(config, initial_bias=DEFAULT_BIAS)
    folder = source.parent
    found = with_openai_names(config, tensors, tuple(source_files(source)), folder, read_licence(folder))
    return dataclasses.replace(found, name=preset)


def _with_preprocessing(config: ClipConfig, preprocess: Json, path: Path) -> ClipConfig:
    return dataclasses.replace(
        config,
        pixel_mean=rgb_triple(path, preprocess.get("mean", PIXEL_MEAN)),
        pixel_std=rgb_triple(path, preprocess.get("std", PIXEL_STD)),
    )


def rgb_triple(path: Path, values: object) -> tuple[float, float, float]:
    """Return a list of three numbers, for red, green and blue; raise UserError for any other value."""
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(x, int | float) for x in values):
        raise file_error(path, "a mean and a std of three numbers", str(values)[:80])
    return float(values[0]), float(values[1]), float(values[2])
