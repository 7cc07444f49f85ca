"""Hugging Face's CLIPModel: a folder with config.json and weights, read and written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, ClipConfig, FirstEnd, LargestId, TowerConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.files.tensors import Tensors, refused
from dalle_jax.pretrained.mapping import taken_back
from dalle_jax.pretrained.publisher import (
    Json,
    Published,
    count,
    first_file,
    licence_beside,
    read_json,
    refuse_flags,
    shape,
    square,
    vocabulary_beside,
)
from dalle_jax.pretrained.publishers.clip_rules import hugging_face_rules
from dalle_jax.pretrained.publishers.open_clip import three
from dalle_jax.pretrained.publishers.openai_clip import tower
from dalle_jax.text.clip_bpe import ClipBpe

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
IGNORED = {r".*\.position_ids": "the numbers 0, 1, 2 ..., which need not be stored"}
ACTIVATIONS = ("quick_gelu", "gelu")
ONLY = {"layer_norm_eps": 1e-5, "num_channels": 3, "attention_dropout": 0.0, "dropout": 0.0}
"""Fields that change what a tower computes, and the one value that is implemented. All others change nothing."""
OLD_END = 2
"""The end's id in configs that were written wrongly: there Hugging Face reads at the largest id instead."""


def published(source: Path) -> Published:
    """The CLIP in a folder; sizes are read from its tensors, heads and activation from its config."""
    path = source / "config.json"
    whole = read_json(path)
    if whole.get("model_type", "clip") != "clip":
        raise refused(path, 'model_type "clip"', repr(whole["model_type"])[:80])
    parts = {name: whole.get(f"{name}_config") or {} for name in ("vision", "text")}
    for part in parts.values():
        if not isinstance(part, dict):
            raise refused(path, "vision_config and text_config as objects", type(part).__name__)
        refuse_flags(path, {name: value for name, value in part.items() if name in ONLY}, ONLY)
    weights = first_file(source, WEIGHTS)
    tensors = read_tensors(weights)
    preprocessing = source / "preprocessor_config.json"
    config = _config(path, parts, tensors, read_json(preprocessing) if preprocessing.is_file() else {})
    beside = (preprocessing,) if preprocessing.is_file() else ()
    return Published(
        config=config,
        tensors=tensors,
        rules=hugging_face_rules(config),
        ignored=IGNORED,
        files=(path, *beside, *source_files(weights)),
        licence=licence_beside(source),
        vocabulary=ClipBpe(pad="end", text_fix="nfc"),
        vocabulary_file=vocabulary_beside(source),
    )


def _config(path: Path, parts: dict[str, Json], tensors: Tensors, preprocessing: Json) -> ClipConfig:
    vision, text = parts["vision"], parts["text"]
    activations = {part.get("hidden_act", "quick_gelu") for part in parts.values()}
    if len(activations) > 1 or not activations <= set(ACTIVATIONS):
        raise refused(path, f"one hidden_act of {' or '.join(ACTIVATIONS)}", ", ".join(sorted(map(str, activations))))
    _, _, patch, _ = shape(tensors, "vision_model.embeddings.patch_embedding.weight", 4)
    places = "vision_model.embeddings.position_embedding.weight"
    end = text.get("eos_token_id", 49_407)
    if not isinstance(end, int):
        raise refused(path, "text_config.eos_token_id to be a number", repr(end)[:80])
    vocab_size = shape(tensors, "text_model.embeddings.token_embedding.weight", 2)[0]
    return ClipConfig(
        image_size=patch * square(tensors, places, shape(tensors, places, 2)[0] - 1),
        patch=patch,
        vision=_tower(path, tensors, "vision", vision.get("num_attention_heads", 12)),
        vocab_size=vocab_size,
        text_length=shape(tensors, "text_model.embeddings.position_embedding.weight", 2)[0],
        text=_tower(path, tensors, "text", text.get("num_attention_heads", 8)),
        embed_width=shape(tensors, "text_projection.weight", 2)[0],
        activation="quick_gelu" if activations == {"quick_gelu"} else "gelu",
        end_of_text=LargestId() if end == OLD_END else FirstEnd(end),
        pixel_mean=three(path, preprocessing.get("image_mean", PIXEL_MEAN)),
        pixel_std=three(path, preprocessing.get("image_std", PIXEL_STD)),
        crop="hugging_face",
    )


def _tower(path: Path, tensors: Tensors, name: str, heads: Any) -> TowerConfig:
    layers = count(tensors, rf"{name}_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.weight")
    hidden, width = shape(tensors, f"{name}_model.encoder.layers.0.mlp.fc1.weight", 2)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise refused(path, f"{name}_config.num_attention_heads to divide {width}", repr(heads)[:80])
    return tower(width, layers, heads, hidden)


def export(clip: Clip, folder: Path) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors, which ``CLIPModel.from_pretrained`` loads.

    Raises UserError for what that cannot be: a ResNet, a bias of the logits, texts that end where it would not look.
    """
    config = clip.config
    if not isinstance(config.vision, TowerConfig) or config.initial_bias is not None:
        raise UserError("export to Hugging Face: expected a CLIP with a vision transformer and no bias of its logits")
    if not isinstance(config.end_of_text, LargestId | FirstEnd):
        raise UserError("export to Hugging Face: expected end_of_text = @LargestId or @FirstEnd, got @LastToken")
    tensors = taken_back(clip, hugging_face_rules(config))
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    files = {"config.json": _written(config, config.vision), "preprocessor_config.json": _preprocessing(config)}
    for name, value in files.items():
        storage.write(folder / name, (json.dumps(value, indent=2) + "\n").encode())
    write_safetensors(folder / WEIGHTS[0], tensors, {"format": "pt"})


def _written(config: ClipConfig, vision: TowerConfig) -> Json:
    end = config.end_of_text.id if isinstance(config.end_of_text, FirstEnd) else OLD_END
    parts: dict[str, Json] = {
        "vision": {"image_size": config.image_size, "patch_size": config.patch, "num_channels": 3},
        "text": {"vocab_size": config.vocab_size, "max_position_embeddings": config.text_length, "eos_token_id": end},
    }
    for name, one in (("vision", vision), ("text", config.text)):
        parts[name] |= {
            "model_type": f"clip_{name}_model",
            "hidden_size": one.width,
            "intermediate_size": 4 * one.width if one.hidden is None else one.hidden,
            "num_hidden_layers": one.layers,
            "num_attention_heads": one.heads,
            "hidden_act": config.activation,
            "layer_norm_eps": ONLY["layer_norm_eps"],
            "projection_dim": config.embed_width,
        }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_width,
        "vision_config": parts["vision"],
        "text_config": parts["text"],
    }


def _preprocessing(config: ClipConfig) -> Json:
    size = config.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
    }
