"""Rules for the VQGAN's tensors under three sets of names: taming-transformers, its Flax conversion, and LlamaGen."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import CONV_KERNEL, Rule, rule
from dalle_jax.pretrained.publisher import count_layers, tensor_shape

PartKind: TypeAlias = Literal["conv", "norm", "table"]
NamePair: TypeAlias = tuple[str, str, PartKind]
"""The name of a part here, its published name (with dots), and its kind."""


@dataclass(frozen=True)
class VqganNames:
    """Published names of the levels, of a level's residual blocks, and of the middle's three parts.

    With ``decoder_by_level`` the decoder's levels are numbered by resolution: the highest resolution is level 0,
    although it runs last.
    """

    encoder: str
    decoder: str
    block: str
    middle: tuple[str, str, str]
    decoder_by_level: bool


TAMING = VqganNames("encoder.down", "decoder.up", "block", ("block_1", "attn_1", "block_2"), decoder_by_level=True)
LLAMAGEN = VqganNames("encoder.conv_blocks", "decoder.conv_blocks", "res", ("0", "1", "2"), decoder_by_level=False)

GUMBEL_TABLE = "quantize.embed.weight"
"""The code vectors of taming's GumbelVQ."""


def config_from_shapes(tensors: Tensors, names: VqganNames) -> VqganConfig:
    """Infer the config from the shapes of torch's tensors."""
    width, channels = tensor_shape(tensors, "encoder.conv_in.weight", 4)[:2]
    start = re.escape(names.encoder)
    levels = count_layers(tensors, rf"{start}\.(\d+)\.")
    blocks = count_layers(tensors, rf"{start}\.0\.{names.block}\.(\d+)\.conv1\.weight")
    widths = [
        tensor_shape(tensors, f"{names.encoder}.{level}.{names.block}.0.conv1.weight", 4)[0] for level in range(levels)
    ]
    if any(one % width for one in widths):
        raise file_error(tensors.name, f"levels whose widths are multiples of {width}", str(widths))
    gumbel = GUMBEL_TABLE in tensors.stored
    codebook_size, code_width = tensor_shape(tensors, GUMBEL_TABLE if gumbel else "quantize.embedding.weight", 2)
    return VqganConfig(
        width=width,
        multipliers=tuple(one // width for one in widths),
        blocks=blocks,
        attention_levels=tuple(
            level for level in range(levels) if f"{names.encoder}.{level}.attn.0.q.weight" in tensors.stored
        ),
        latent_width=tensor_shape(tensors, "encoder.conv_out.weight", 4)[0],
        code_width=code_width,
        codebook_size=codebook_size,
        channels=channels,
        quantizer="gumbel" if gumbel else "nearest",
    )


def name_pairs(config: VqganConfig, names: VqganNames) -> list[NamePair]:
    """List every part of the network with both of its names."""
    gumbel: list[NamePair] = [("codebook", "quantize.embed", "table"), ("code_logits", "quantize.proj", "conv")]
    found: list[NamePair] = [
        *(gumbel if config.quantizer == "gumbel" else [("codebook", "quantize.embedding", "table")]),
        ("into_codes", "quant_conv", "conv"),
        ("out_of_codes", "post_quant_conv", "conv"),
    ]
    levels = len(config.multipliers)
    for side in ("encoder", "decoder"):
        found += [
            (f"{side}.input", f"{side}.conv_in", "conv"),
            (f"{side}.norm", f"{side}.norm_out", "norm"),
            (f"{side}.output", f"{side}.conv_out", "conv"),
        ]
        first, attention, second = (f"{side}.mid.{name}" for name in names.middle)
        found += _block(f"{side}.middle.block1", first) + _block(f"{side}.middle.block2", second)
        found += _attention(f"{side}.middle.attention", attention)
    widths = [config.width * one for one in config.multipliers]
    for level, (before, width) in enumerate(zip([config.width, *widths], widths, strict=False)):
        ours, theirs = f"encoder.levels.{level}", f"{names.encoder}.{level}"
        found += _level(ours, theirs, config, names, level, config.blocks, before != width)
        if level < levels - 1:
            found.append((f"{ours}.resize", f"{theirs}.downsample.conv", "conv"))
    for index, (before, width) in enumerate(zip([widths[-1], *widths[::-1]], widths[::-1], strict=False)):
        level = levels - 1 - index
        ours, theirs = f"decoder.levels.{index}", f"{names.decoder}.{level if names.decoder_by_level else index}"
        found += _level(ours, theirs, config, names, level, config.blocks + 1, before != width)
        if level:
            found.append((f"{ours}.resize", f"{theirs}.upsample.conv", "conv"))
    return found


def _level(
    ours: str, theirs: str, config: VqganConfig, names: VqganNames, level: int, blocks: int, widens: bool
) -> list[NamePair]:
    found: list[NamePair] = []
    for block in range(blocks):
        here, there = f"{ours}.blocks.{block}", f"{theirs}.{names.block}.{block}"
        found += _block(here, there)
        if block == 0 and widens:
            found.append((f"{here}.skip", f"{there}.nin_shortcut", "conv"))
        if level in config.attention_levels:
            found += _attention(f"{ours}.attention.{block}", f"{theirs}.attn.{block}")
    return found


def _block(ours: str, theirs: str) -> list[NamePair]:
    return [
        *((f"{ours}.{name}", f"{theirs}.{name}", "norm") for name in ("norm1", "norm2")),
        *((f"{ours}.{name}", f"{theirs}.{name}", "conv") for name in ("conv1", "conv2")),
    ]


def _attention(ours: str, theirs: str) -> list[NamePair]:
    names = {"q": "q", "k": "k", "v": "v", "out": "proj_out"}
    return [
        (f"{ours}.norm", f"{theirs}.norm", "norm"),
        *((f"{ours}.{name}", f"{theirs}.{other}", "conv") for name, other in names.items()),
    ]


def torch_rules(pairs: Sequence[NamePair]) -> list[Rule]:
    """Build the rules for torch's tensors: ``weight`` and ``bias``, kernels [out in k k]."""
    rules = []
    for ours, theirs, part in pairs:
        if part == "table":
            rules.append(rule(ours, f"{theirs}.weight"))
            continue
        weight = rule(f"{ours}.kernel", f"{theirs}.weight", transform=CONV_KERNEL)
        rules.append(weight if part == "conv" else rule(f"{ours}.scale", f"{theirs}.weight"))
        rules.append(rule(f"{ours}.bias", f"{theirs}.bias"))
    return rules


def flax_name(name: str) -> str:
    """Convert torch's ``down.0.block.1`` to Flax's ``down_0/block_1``."""
    return re.sub(r"\.(\d+)", r"_\1", name).replace(".", "/")


def flax_rules(pairs: Sequence[NamePair], to_flax: Callable[[str], str] = flax_name) -> list[Rule]:
    """Build the rules for Flax's tensors: ``kernel`` [k k in out], ``scale``, ``bias`` and ``embedding``."""
    rules = []
    for ours, theirs, part in pairs:
        if part == "table":
            rules.append(rule(ours, f"{to_flax(theirs)}/embedding"))
            continue
        weight = "kernel" if part == "conv" else "scale"
        rules += [rule(f"{ours}.{one}", f"{to_flax(theirs)}/{one}") for one in (weight, "bias")]
    return rules
