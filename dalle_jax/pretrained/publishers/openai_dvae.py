"""OpenAI's dVAE of DALL·E 1: two pickled modules, or state dicts of them, in one folder."""

import re
from pathlib import Path

from dalle_jax.models.dvae import DECODER_KERNELS, ENCODER_KERNELS, DvaeConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, refused
from dalle_jax.pretrained.mapping import KERNEL, Rule, rule
from dalle_jax.pretrained.publisher import Published, first_file, shape

SIDES = {"encoder": ("encoder.pkl", "encoder.pt"), "decoder": ("decoder.pkl", "decoder.pt")}


def published(source: Path) -> Published:
    """The dVAE in a folder with ``encoder.pkl`` and ``decoder.pkl``; every size is read from its shapes."""
    files = [first_file(source, names) for names in SIDES.values()]
    stored = {}
    for side, file in zip(SIDES, files, strict=True):
        stored.update({f"{side}.{name}": one for name, one in read_tensors(file).stored.items()})
    tensors = Tensors(str(source), stored)
    config = config_of(tensors)
    return Published(
        config=config,
        tensors=tensors,
        rules=rules(config),
        ignored={},
        files=tuple(files),
        licence="Modified MIT (OpenAI's repository DALL-E)",
    )


def config_of(tensors: Tensors) -> DvaeConfig:
    """The sizes that the shapes tell."""
    width, channels = shape(tensors, "encoder.blocks.input.w", 4)[:2]
    code_width, codebook_size = shape(tensors, "decoder.blocks.input.w", 4)[:2]
    groups, blocks = (
        _last(tensors, pattern)
        for pattern in (r"encoder\.blocks\.group_(\d+)\.", r"encoder\.blocks\.group_1\.block_(\d+)\.")
    )
    return DvaeConfig(
        width=width, codebook_size=codebook_size, code_width=code_width, groups=groups, blocks=blocks, channels=channels
    )


def _last(tensors: Tensors, pattern: str) -> int:
    """How many there are of what is counted from 1 on."""
    numbers = {int(match.group(1)) for name in tensors if (match := re.match(pattern, name))}
    if not numbers or numbers != set(range(1, len(numbers) + 1)):
        raise refused(tensors.name, f"all of {pattern} from 1 on", f"the numbers {sorted(numbers)[:20]}")
    return max(numbers)


def rules(config: DvaeConfig) -> list[Rule]:
    """Where every tensor goes; groups and blocks are counted from 1 there."""
    found: list[Rule] = []
    for side, kernels in (("encoder", ENCODER_KERNELS), ("decoder", DECODER_KERNELS)):
        theirs = f"{side}.blocks"
        found += conv(f"{side}.input", f"{theirs}.input") + conv(f"{side}.output", f"{theirs}.output.conv")
        widths = [config.width * 2**group for group in range(config.groups)]
        before = config.width if side == "encoder" else config.code_width
        for group, width in enumerate(widths if side == "encoder" else widths[::-1]):
            for block in range(config.blocks):
                here, there = f"{side}.groups.{group}.{block}", f"{theirs}.group_{group + 1}.block_{block + 1}"
                if before != width:
                    found += conv(f"{here}.skip", f"{there}.id_path")
                for index in range(len(kernels)):
                    found += conv(f"{here}.convs.{index}", f"{there}.res_path.conv_{index + 1}")
                before = width
    return found


def conv(ours: str, theirs: str) -> list[Rule]:
    """A convolution."""
    return [rule(f"{ours}.kernel", f"{theirs}.w", how=KERNEL), rule(f"{ours}.bias", f"{theirs}.b")]
