"""Import and export of DALL·E mini's VQGAN: taming's network in Flax's format, with pixels in 0..1."""

import json
from pathlib import Path
from typing import TypeGuard

from flax import serialization
from flax.traverse_util import unflatten_dict

from dalle_jax import storage
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import file_error, is_size
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publisher import Json, Published, find_file, read_json, read_licence
from dalle_jax.pretrained.publishers.taming_vqgan import NOMINAL_RESOLUTION, attention_resolutions, check_exportable
from dalle_jax.pretrained.publishers.vqgan_layouts import TAMING, flax_rules, name_pairs
from dalle_jax.pretrained.signatures import FLAX_VQGAN, locate

WEIGHTS = ("flax_model.msgpack",)
MAX_BLOCKS = 32
"""Largest number of blocks in a level, and of levels. Published models have 2 blocks and 5 levels.

All blocks are built before the first missing tensor is noticed, so a wrong config could exhaust memory.
"""
ONLY = {"double_z": False, "resamp_with_conv": True, "give_pre_end": False, "dropout": 0.0}
"""Fields of which only one value is implemented. Fields that do not describe the network are ignored."""
SIZES = ("ch", "num_res_blocks", "resolution", "z_channels", "embed_dim", "n_embed", "in_channels", "out_ch")
SIZE_LISTS = ("ch_mult", "attn_resolutions")


def published(source: Path) -> Published:
    """Read the VQGAN in a folder with config.json and flax_model.msgpack."""
    config = config_from_json(source / "config.json", read_json(source / "config.json"))
    file = find_file(source, WEIGHTS)
    return Published(
        config=config,
        tensors=locate(read_tensors(file), FLAX_VQGAN),
        rules=flax_rules(name_pairs(config, TAMING)),
        ignored={},
        files=tuple(source_files(file)),
        licence=read_licence(source),
    )


def config_from_json(path: Path, config: Json) -> VqganConfig:
    """Convert ``config.json``; raise UserError with every field that is missing, wrong or not implemented."""
    wrong = [f"{name} = {config[name]!r}" for name, only in ONLY.items() if config.get(name, only) != only]
    sizes: dict[str, int] = {}
    for name in SIZES:
        value = config.get(name)
        if _is_positive_size(value) and not (name == "num_res_blocks" and value > MAX_BLOCKS):
            sizes[name] = value
        else:
            wrong.append(f"{name} = {value!r}")
    lists: dict[str, tuple[int, ...]] = {}
    for name in SIZE_LISTS:
        value = config.get(name)
        if isinstance(value, list) and len(value) <= MAX_BLOCKS and all(_is_positive_size(one) for one in value):
            lists[name] = tuple(value)
        else:
            wrong.append(f"{name} = {value!r}")
    if not wrong and sizes["in_channels"] != sizes["out_ch"]:
        wrong.append(f"out_ch = {sizes['out_ch']!r} with in_channels = {sizes['in_channels']!r}")
    if wrong:
        raise file_error(path, "the config of a VQGAN that is implemented", "; ".join(wrong))
    resolutions = [sizes["resolution"] >> level for level in range(len(lists["ch_mult"]))]
    return VqganConfig(
        width=sizes["ch"],
        multipliers=lists["ch_mult"],
        blocks=sizes["num_res_blocks"],
        attention_levels=tuple(level for level, size in enumerate(resolutions) if size in lists["attn_resolutions"]),
        latent_width=sizes["z_channels"],
        code_width=sizes["embed_dim"],
        codebook_size=sizes["n_embed"],
        channels=sizes["in_channels"],
        pixel_range="0..1",
    )


def _is_positive_size(value: object) -> TypeGuard[int]:
    return is_size(value) and 0 < value < 1 << 24


def export(network: Vqgan, folder: Path) -> None:
    """Write config.json and flax_model.msgpack, which DALL·E mini's ``VQModel.from_pretrained`` loads."""
    config = network.config
    check_exportable("dalle-mini-vqgan", config)
    tensors = unflatten_dict(to_published(network, flax_rules(name_pairs(config, TAMING))), sep="/")
    written = {
        "ch": config.width,
        "ch_mult": list(config.multipliers),
        "num_res_blocks": config.blocks,
        "resolution": NOMINAL_RESOLUTION,
        "attn_resolutions": attention_resolutions(config),
        "z_channels": config.latent_width,
        "embed_dim": config.code_width,
        "n_embed": config.codebook_size,
        "in_channels": config.channels,
        "out_ch": config.channels,
        **ONLY,
    }
    storage.write(folder / "config.json", (json.dumps(written, indent=2) + "\n").encode())
    storage.write(folder / WEIGHTS[0], serialization.msgpack_serialize(tensors))
