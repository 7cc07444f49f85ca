"""Import and export of Hugging Face's CLIPModel: a folder with config.json and weights."""

import json
from pathlib import Path
from typing import Literal

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import (
    PIXEL_MEAN,
    PIXEL_STD,
    Clip,
    ClipConfig,
    ClipImageConfig,
    FirstEnd,
    LargestId,
    TowerConfig,
)
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publisher import (
    Json,
    Published,
    as_object,
    check_flags,
    count_layers,
    find_file,
    find_vocabulary,
    grid_side,
    read_json,
    read_licence,
    tensor_shape,
)
from dalle_jax.pretrained.publishers.clip_rules import hugging_face_rules, hugging_face_vision_rules
from dalle_jax.pretrained.publishers.open_clip import rgb_triple
from dalle_jax.pretrained.publishers.openai_clip import tower_config
from dalle_jax.pretrained.signatures import HF_CLIP, HF_IMAGE, locate
from dalle_jax.text.clip_bpe import ClipBpe

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PREPROCESSING = "preprocessor_config.json"
IGNORED = {r".*\.position_ids": "the constants 0, 1, 2 and so on"}
ACTIVATIONS = ("quick_gelu", "gelu")
ONLY = {"layer_norm_eps": 1e-5, "num_channels": 3, "attention_dropout": 0.0, "dropout": 0.0}
"""The only implemented value of each field that changes a tower's output. Other fields do not change it."""
LEGACY_END = 2
"""Wrong id of the end token in old configs, for which Hugging Face takes the position of the largest id instead."""


def published(source: Path) -> Published:
    """Read the CLIP in a folder; sizes come from the shapes, heads and activation from the config."""
    path = source / "config.json"
    whole = read_json(path)
    if whole.get("model_type", "clip") != "clip":
        raise file_error(path, 'model_type "clip"', repr(whole["model_type"])[:80])
    keys = {"vision": "vision_config", "text": "text_config"}
    parts = {name: as_object(path, key, whole.get(key) or {}) for name, key in keys.items()}
    for part in parts.values():
        check_flags(path, {name: value for name, value in part.items() if name in ONLY}, ONLY)
    weights = find_file(source, WEIGHTS)
    tensors = locate(read_tensors(weights), HF_CLIP)
    preprocessing = source / PREPROCESSING
    config = _config(path, parts, tensors, read_json(preprocessing) if preprocessing.is_file() else {})
    optional = (preprocessing,) if preprocessing.is_file() else ()
    return Published(
        config=config,
        tensors=tensors,
        rules=hugging_face_rules(config),
        ignored=IGNORED,
        files=(path, *optional, *source_files(weights)),
        licence=read_licence(source),
        vocabulary=ClipBpe(pad="end", text_fix="nfc"),
        vocabulary_file=find_vocabulary(source),
    )


def published_image_encoder(source: Path) -> Published:
    """Read the image tower of Karlo's variations, transformers' ``CLIPVisionModelWithProjection`` in a folder.

    ``preprocessor_config.json`` lies in the folder ``feature_extractor`` next to it, or in the folder itself.
    """
    path = source / "config.json"
    vision = read_json(path)
    check_flags(path, {name: value for name, value in vision.items() if name in ONLY}, ONLY)
    weights = find_file(source, WEIGHTS)
    tensors = locate(read_tensors(weights), HF_IMAGE)
    places = (source.parent / "feature_extractor" / PREPROCESSING, source / PREPROCESSING)
    optional = tuple(one for one in places if one.is_file())[:1]
    preprocessing = read_json(optional[0]) if optional else {}
    _, _, patch, _ = tensor_shape(tensors, "vision_model.embeddings.patch_embedding.weight", 4)
    config = ClipImageConfig(
        image_size=_image_size(tensors, patch),
        patch=patch,
        vision=_tower(path, tensors, "vision", vision.get("num_attention_heads", 12)),
        embed_width=tensor_shape(tensors, "visual_projection.weight", 2)[0],
        activation=_activation(path, [vision.get("hidden_act", "quick_gelu")]),
        pixel_mean=rgb_triple(path, preprocessing.get("image_mean", PIXEL_MEAN)),
        pixel_std=rgb_triple(path, preprocessing.get("image_std", PIXEL_STD)),
        crop="hugging_face",
    )
    return Published(
        config=config,
        tensors=tensors,
        rules=hugging_face_vision_rules(config.vision, patch),
        ignored=IGNORED,
        files=(path, *optional, *source_files(weights)),
        licence=read_licence(source.parent),
    )


def _image_size(tensors: Tensors, patch: int) -> int:
    table = "vision_model.embeddings.position_embedding.weight"
    return patch * grid_side(tensors, table, tensor_shape(tensors, table, 2)[0] - 1)


def _activation(path: Path, towers: list[object]) -> Literal["gelu", "quick_gelu"]:
    """Return the activation of all towers. Raise UserError if they differ, or for one that is not implemented."""
    if len(set(map(str, towers))) > 1 or towers[0] not in ACTIVATIONS:
        got = " and ".join(map(str, towers))
        raise file_error(path, f"one hidden_act of {' or '.join(ACTIVATIONS)} for all towers", got[:80])
    return "quick_gelu" if towers[0] == "quick_gelu" else "gelu"


def _config(path: Path, parts: dict[str, Json], tensors: Tensors, preprocessing: Json) -> ClipConfig:
    vision, text = parts["vision"], parts["text"]
    activation = _activation(path, [part.get("hidden_act", "quick_gelu") for part in parts.values()])
    _, _, patch, _ = tensor_shape(tensors, "vision_model.embeddings.patch_embedding.weight", 4)
    end = text.get("eos_token_id", 49_407)
    if not isinstance(end, int):
        raise file_error(path, "text_config.eos_token_id to be a whole number", repr(end)[:80])
    vocab_size = tensor_shape(tensors, "text_model.embeddings.token_embedding.weight", 2)[0]
    return ClipConfig(
        image_size=_image_size(tensors, patch),
        patch=patch,
        vision=_tower(path, tensors, "vision", vision.get("num_attention_heads", 12)),
        vocab_size=vocab_size,
        text_length=tensor_shape(tensors, "text_model.embeddings.position_embedding.weight", 2)[0],
        text=_tower(path, tensors, "text", text.get("num_attention_heads", 8)),
        embed_width=tensor_shape(tensors, "text_projection.weight", 2)[0],
        activation=activation,
        end_of_text=LargestId() if end == LEGACY_END else FirstEnd(end),
        pixel_mean=rgb_triple(path, preprocessing.get("image_mean", PIXEL_MEAN)),
        pixel_std=rgb_triple(path, preprocessing.get("image_std", PIXEL_STD)),
        crop="hugging_face",
    )


def _tower(path: Path, tensors: Tensors, name: str, heads: object) -> TowerConfig:
    layers = count_layers(tensors, rf"{name}_model\.encoder\.layers\.(\d+)\.self_attn\.q_proj\.weight")
    hidden, width = tensor_shape(tensors, f"{name}_model.encoder.layers.0.mlp.fc1.weight", 2)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise file_error(path, f"{name}_config.num_attention_heads to divide {width}", repr(heads)[:80])
    return tower_config(width, layers, heads, hidden)


def export(clip: Clip, folder: Path) -> None:
    """Write config.json, preprocessor_config.json and model.safetensors, which ``CLIPModel.from_pretrained`` loads.

    Raises UserError for a CLIP that CLIPModel cannot express: one with a ResNet, a logit bias, or a different rule for
    the end of a text.
    """
    config = clip.config
    if not isinstance(config.vision, TowerConfig) or config.initial_bias is not None:
        raise UserError(
            "export to Hugging Face: expected a vision transformer and no logit bias, got "
            f"{type(config.vision).__name__} and initial_bias {config.initial_bias}"
        )
    if not isinstance(config.end_of_text, LargestId | FirstEnd):
        raise UserError("export to Hugging Face: expected end_of_text = @LargestId or @FirstEnd, got @LastToken")
    tensors = to_published(clip, hugging_face_rules(config))
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    files = {"config.json": _config_json(config, config.vision), PREPROCESSING: _preprocessing(config)}
    for name, value in files.items():
        storage.write(folder / name, (json.dumps(value, indent=2) + "\n").encode())
    write_safetensors(folder / WEIGHTS[0], tensors, {"format": "pt"})


def _config_json(config: ClipConfig, vision: TowerConfig) -> Json:
    end = config.end_of_text.id if isinstance(config.end_of_text, FirstEnd) else LEGACY_END
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
