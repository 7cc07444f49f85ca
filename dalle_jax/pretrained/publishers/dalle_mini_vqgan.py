"""The VQGAN that DALL·E mini draws with: taming's network in Flax's format, which is shown pixels in 0..1."""

import json
from pathlib import Path

from flax import serialization

from dalle_jax import storage
from dalle_jax.models.vqgan import Vqgan, VqganConfig
from dalle_jax.pretrained.files.read_weights import read_tensors, source_files
from dalle_jax.pretrained.files.tensors import refused
from dalle_jax.pretrained.mapping import taken_back
from dalle_jax.pretrained.publisher import Json, Published, first_file, licence_beside, read_json
from dalle_jax.pretrained.publishers.taming_vqgan import NOMINAL_RESOLUTION, attention_resolutions
from dalle_jax.pretrained.publishers.vqgan_layouts import TAMING, flax_rules, pairs

WEIGHTS = ("flax_model.msgpack",)
MOST_BLOCKS = 32
"""Blocks of a level, and levels: published ones have 2 and 5; thousands would be built before any is found missing."""
ONLY = {"double_z": False, "resamp_with_conv": True, "give_pre_end": False, "dropout": 0.0}
"""Fields of which one value is implemented; those that are not the network's are the hub's own and change nothing."""


def published(source: Path) -> Published:
    """The VQGAN in a folder with config.json and flax_model.msgpack."""
    config = config_of(source / "config.json", read_json(source / "config.json"))
    file = first_file(source, WEIGHTS)
    return Published(
        config=config,
        tensors=read_tensors(file),
        rules=flax_rules(pairs(config, TAMING)),
        ignored={},
        files=tuple(source_files(file)),
        licence=licence_beside(source),
    )


def config_of(path: Path, config: Json) -> VqganConfig:
    """The sizes of a config; UserError with all that is missing, odd or not implemented."""
    wrong = [f"{name} = {config[name]!r}" for name, only in ONLY.items() if config.get(name, only) != only]
    numbers = ("ch", "num_res_blocks", "resolution", "z_channels", "embed_dim", "n_embed", "in_channels", "out_ch")
    wrong += [f"{name} = {config.get(name)!r}" for name in numbers if not _is_size(config.get(name))]
    wrong += [f"{name} = {config[name]!r}" for name in ("num_res_blocks",) if not wrong and config[name] > MOST_BLOCKS]
    for name in ("ch_mult", "attn_resolutions"):
        value = config.get(name)
        if not isinstance(value, list) or len(value) > MOST_BLOCKS or not all(_is_size(one) for one in value):
            wrong.append(f"{name} = {value!r}")
    if not wrong and config["in_channels"] != config["out_ch"]:
        wrong.append(f"out_ch = {config['out_ch']!r} beside in_channels = {config['in_channels']!r}")
    if wrong:
        raise refused(path, "the config of a VQGAN that is implemented", "; ".join(wrong))
    sizes = [config["resolution"] >> level for level in range(len(config["ch_mult"]))]
    return VqganConfig(
        width=config["ch"],
        multipliers=tuple(config["ch_mult"]),
        blocks=config["num_res_blocks"],
        attention_levels=tuple(level for level, size in enumerate(sizes) if size in config["attn_resolutions"]),
        latent_width=config["z_channels"],
        code_width=config["embed_dim"],
        codebook_size=config["n_embed"],
        channels=config["in_channels"],
        pixel_range="0..1",
    )


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24


def export(network: Vqgan, folder: Path) -> None:
    """Writes config.json and flax_model.msgpack, which DALL·E mini's ``VQModel.from_pretrained`` loads."""
    config = network.config
    if config.distance != "euclidean":
        raise refused("dalle-mini-vqgan", "a VQGAN with distance='euclidean'", f"distance={config.distance!r}")
    nested: Json = {}
    for name, value in taken_back(network, flax_rules(pairs(config, TAMING))).items():
        *path, last = name.split("/")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
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
    storage.write(folder / WEIGHTS[0], serialization.msgpack_serialize(nested))
