"""Where the tensors of a VQGAN go: the names of taming-transformers, of its Flax conversion, and of LlamaGen."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.pretrained.files.tensors import Tensors, refused
from dalle_jax.pretrained.mapping import KERNEL, Rule, rule
from dalle_jax.pretrained.publisher import count, shape

Part = Literal["conv", "norm", "table"]
Pair = tuple[str, str, Part]
"""Our name, theirs (with dots), and what it is."""


@dataclass(frozen=True)
class Layout:
    """How a publisher names levels, the blocks of one, and the middle.

    ``decoder_by_level``: levels of the decoder are numbered by their size, the largest 0, though it runs last.
    """

    encoder: str
    decoder: str
    block: str
    middle: tuple[str, str, str]
    decoder_by_level: bool


TAMING = Layout("encoder.down", "decoder.up", "block", ("block_1", "attn_1", "block_2"), decoder_by_level=True)
LLAMAGEN = Layout("encoder.conv_blocks", "decoder.conv_blocks", "res", ("0", "1", "2"), decoder_by_level=False)


def config_of(tensors: Tensors, layout: Layout) -> VqganConfig:
    """The sizes that the shapes tell; ``tensors`` have torch's names and shapes."""
    width, channels = shape(tensors, "encoder.conv_in.weight", 4)[:2]
    start = re.escape(layout.encoder)
    levels = count(tensors, rf"{start}\.(\d+)\.")
    blocks = count(tensors, rf"{start}\.0\.{layout.block}\.(\d+)\.conv1\.weight")
    widths = [
        shape(tensors, f"{layout.encoder}.{level}.{layout.block}.0.conv1.weight", 4)[0] for level in range(levels)
    ]
    if any(one % width for one in widths):
        raise refused(tensors.name, f"levels whose widths are multiples of {width}", str(widths))
    codebook_size, code_width = shape(tensors, "quantize.embedding.weight", 2)
    return VqganConfig(
        width=width,
        multipliers=tuple(one // width for one in widths),
        blocks=blocks,
        attention_levels=tuple(
            level for level in range(levels) if f"{layout.encoder}.{level}.attn.0.q.weight" in tensors.stored
        ),
        latent_width=shape(tensors, "encoder.conv_out.weight", 4)[0],
        code_width=code_width,
        codebook_size=codebook_size,
        channels=channels,
    )


def pairs(config: VqganConfig, layout: Layout) -> list[Pair]:
    """Every part of the network and what it is called."""
    found: list[Pair] = [
        ("codebook", "quantize.embedding", "table"),
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
        first, attention, second = (f"{side}.mid.{name}" for name in layout.middle)
        found += _block(f"{side}.middle.block1", first) + _block(f"{side}.middle.block2", second)
        found += _attention(f"{side}.middle.attention", attention)
    widths = [config.width * one for one in config.multipliers]
    for level, (before, width) in enumerate(zip([config.width, *widths], widths, strict=False)):
        ours, theirs = f"encoder.levels.{level}", f"{layout.encoder}.{level}"
        found += _level(ours, theirs, config, layout, level, config.blocks, before != width)
        if level < levels - 1:
            found.append((f"{ours}.resize", f"{theirs}.downsample.conv", "conv"))
    for index, (before, width) in enumerate(zip([widths[-1], *widths[::-1]], widths[::-1], strict=False)):
        level = levels - 1 - index
        ours, theirs = f"decoder.levels.{index}", f"{layout.decoder}.{level if layout.decoder_by_level else index}"
        found += _level(ours, theirs, config, layout, level, config.blocks + 1, before != width)
        if level:
            found.append((f"{ours}.resize", f"{theirs}.upsample.conv", "conv"))
    return found


def _level(
    ours: str, theirs: str, config: VqganConfig, layout: Layout, level: int, blocks: int, widens: bool
) -> list[Pair]:
    found: list[Pair] = []
    for block in range(blocks):
        here, there = f"{ours}.blocks.{block}", f"{theirs}.{layout.block}.{block}"
        found += _block(here, there)
        if block == 0 and widens:
            found.append((f"{here}.skip", f"{there}.nin_shortcut", "conv"))
        if level in config.attention_levels:
            found += _attention(f"{ours}.attention.{block}", f"{theirs}.attn.{block}")
    return found


def _block(ours: str, theirs: str) -> list[Pair]:
    return [
        *((f"{ours}.{name}", f"{theirs}.{name}", "norm") for name in ("norm1", "norm2")),
        *((f"{ours}.{name}", f"{theirs}.{name}", "conv") for name in ("conv1", "conv2")),
    ]


def _attention(ours: str, theirs: str) -> list[Pair]:
    names = {"q": "q", "k": "k", "v": "v", "out": "proj_out"}
    return [
        (f"{ours}.norm", f"{theirs}.norm", "norm"),
        *((f"{ours}.{name}", f"{theirs}.{other}", "conv") for name, other in names.items()),
    ]


def torch_rules(found: Sequence[Pair]) -> list[Rule]:
    """Torch's: ``weight`` and ``bias``, kernels [out in k k]."""
    rules = []
    for ours, theirs, part in found:
        if part == "table":
            rules.append(rule(ours, f"{theirs}.weight"))
            continue
        weight = rule(f"{ours}.kernel", f"{theirs}.weight", how=KERNEL)
        rules.append(weight if part == "conv" else rule(f"{ours}.scale", f"{theirs}.weight"))
        rules.append(rule(f"{ours}.bias", f"{theirs}.bias"))
    return rules


def flax_name(name: str) -> str:
    """``down.0.block.1`` as Flax has it: ``down_0/block_1``."""
    return re.sub(r"\.(\d+)", r"_\1", name).replace(".", "/")


def flax_rules(found: Sequence[Pair], named: Callable[[str], str] = flax_name) -> list[Rule]:
    """Flax's: ``kernel`` [k k in out], ``scale``, ``embedding``."""
    rules = []
    for ours, theirs, part in found:
        if part == "table":
            rules.append(rule(ours, f"{named(theirs)}/embedding"))
            continue
        weight = "kernel" if part == "conv" else "scale"
        rules += [rule(f"{ours}.{one}", f"{named(theirs)}/{one}") for one in (weight, "bias")]
    return rules
