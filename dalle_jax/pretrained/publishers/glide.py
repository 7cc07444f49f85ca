"""GLIDE's base, upsampler and inpainting networks: a ``.pt`` file, whose tensors give all sizes except the heads'."""

import re
from pathlib import Path

from dalle_jax.models.clip import TowerConfig
from dalle_jax.models.glide import GlideConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import TRANSPOSE, Rule, dense, rule
from dalle_jax.pretrained.publisher import (
    Published,
    count_layers,
    find_vocabulary,
    positive_int,
    read_json,
    read_licence,
    tensor_shape,
)
from dalle_jax.pretrained.publishers.unet_layouts import bias_by_heads, by_heads, glide_rules
from dalle_jax.pretrained.signatures import GLIDE, locate
from dalle_jax.text.glide_bpe import GlideBpe

PUBLISHED_HEADS = {"num_head_channels": 64, "xf_heads": 8}
"""Sizes of the published models that no tensor shows; ``config.json`` next to a file may contain others."""


def published(source: Path) -> Published:
    """Read the network in a ``.pt``; ``config.json`` may give ``num_head_channels`` and ``xf_heads``."""
    path = source.parent / "config.json"
    flags = PUBLISHED_HEADS | (read_json(path) if path.is_file() else {})
    heads = {name: positive_int(path, name, flags[name]) for name in PUBLISHED_HEADS}
    tensors = locate(read_tensors(source), GLIDE)
    config = config_from_tensors(tensors, heads["num_head_channels"], heads["xf_heads"])
    return Published(
        config=config,
        tensors=tensors,
        rules=rules_for(config),
        ignored={},
        files=(source, path) if path.is_file() else (source,),
        licence=read_licence(source.parent),
        vocabulary=GlideBpe(),
        vocabulary_file=find_vocabulary(source.parent),
    )


def config_from_tensors(tensors: Tensors, head_size: int, text_heads: int) -> GlideConfig:
    """Infer the config from the shapes of the tensors. Raise UserError if a tensor is missing or does not fit."""
    width, inputs, _, _ = tensor_shape(tensors, "input_blocks.0.0.weight", 4)
    channels = tensor_shape(tensors, "out.2.weight", 4)[0] // 2
    steps = count_layers(tensors, r"input_blocks\.(\d+)\.")
    shapes = [tensor_shape(tensors, f"input_blocks.{at}.0.in_layers.2.weight", 4) for at in range(1, steps)]
    ups = sum(bool(re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", name)) for name in tensors)
    levels = ups + 1
    blocks = steps // levels - 1
    if blocks < 1 or steps != levels * (blocks + 1) or inputs < channels or width % 32:
        got = f"{steps} input blocks, {levels} levels, {inputs} input channels and a width of {width}"
        raise file_error(tensors.name, "the network of GLIDE with equally many blocks on each level", got)
    features = [shapes[level * (blocks + 1)][0] for level in range(levels)]
    attention = [f"input_blocks.{1 + level * (blocks + 1)}.1.norm.weight" in tensors for level in range(levels)]
    vocab_size, text_width = tensor_shape(tensors, "token_embedding.weight", 2)
    return GlideConfig(
        unet=UNetConfig(
            width=width,
            multipliers=tuple(one // width for one in features),
            blocks=blocks,
            attention_levels=tuple(level for level, attends in enumerate(attention) if attends),
            head_size=head_size,
            context_width=text_width,
            channels=channels,
            extra_channels=inputs - channels,
        ),
        vocab_size=vocab_size,
        text_length=tensor_shape(tensors, "positional_embedding", 2)[0],
        text=TowerConfig(text_width, count_layers(tensors, r"transformer\.resblocks\.(\d+)\."), text_heads),
    )


def rules_for(config: GlideConfig) -> list[Rule]:
    """Build the rules of a network whose text transformer is not scanned."""
    unet = [Rule(f"unet.{one.target}", one.sources, one.transform) for one in glide_rules(config.unet)]
    width, heads = config.text.width, (config.text.heads, config.text.width // config.text.heads)
    rules = [
        *unet,
        rule("text.tokens.table", "token_embedding.weight"),
        rule("text.positions.table", "positional_embedding"),
        rule("text.padding.table", "padding_embedding"),
        rule("text.norm.scale", "final_ln.weight"),
        rule("text.norm.bias", "final_ln.bias"),
        rule("text.project.kernel", "transformer_proj.weight", transform=TRANSPOSE),
        rule("text.project.bias", "transformer_proj.bias"),
    ]
    layouts = {
        "qkv": ("attn.c_qkv", by_heads(3, heads, trailing=False), bias_by_heads(3, heads)),
        "out": ("attn.c_proj", dense(heads, (width,)), None),
        "up": ("mlp.c_fc", TRANSPOSE, None),
        "down": ("mlp.c_proj", TRANSPOSE, None),
    }
    for layer in range(config.text.layers):
        ours, theirs = f"text.stack.blocks.{layer}", f"transformer.resblocks.{layer}"
        for norm, name in (("norm_attention", "ln_1"), ("norm_mlp", "ln_2")):
            rules.append(rule(f"{ours}.{norm}.scale", f"{theirs}.{name}.weight"))
            rules.append(rule(f"{ours}.{norm}.bias", f"{theirs}.{name}.bias"))
        for part, (name, kernel, bias) in layouts.items():
            rules.append(rule(f"{ours}.{part}.kernel", f"{theirs}.{name}.weight", transform=kernel))
            plain = rule(f"{ours}.{part}.bias", f"{theirs}.{name}.bias")
            rules.append(plain if bias is None else Rule(plain.target, plain.sources, bias))
    return rules
