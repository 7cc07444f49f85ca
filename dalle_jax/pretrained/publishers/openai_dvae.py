"""OpenAI's dVAE of DALL·E 1: a folder with two pickled modules, or with their state dicts."""

import re
from pathlib import Path

from dalle_jax.models.dvae import DECODER_KERNELS, ENCODER_KERNELS, DvaeConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import CONV_KERNEL, Rule, rule
from dalle_jax.pretrained.publisher import Published, find_file, tensor_shape
from dalle_jax.pretrained.signatures import DVAE_SIDE, locate

SIDES = {"encoder": ("encoder.pkl", "encoder.pt"), "decoder": ("decoder.pkl", "decoder.pt")}


def published(source: Path) -> Published:
    """Read the dVAE in a folder with ``encoder.pkl`` and ``decoder.pkl``; sizes come from the shapes."""
    files = [find_file(source, names) for names in SIDES.values()]
    tensors = Tensors(str(source), {})
    for side, file in zip(SIDES, files, strict=True):
        tensors.add(f"{side}.", locate(read_tensors(file), DVAE_SIDE))
    config = config_from_shapes(tensors)
    return Published(
        config=config,
        tensors=tensors,
        rules=rules_for(config),
        ignored={},
        files=tuple(files),
        licence="Modified MIT (OpenAI's repository DALL-E)",
    )


def config_from_shapes(tensors: Tensors) -> DvaeConfig:
    """Infer the config from the shapes."""
    width, channels = tensor_shape(tensors, "encoder.blocks.input.w", 4)[:2]
    code_width, codebook_size = tensor_shape(tensors, "decoder.blocks.input.w", 4)[:2]
    groups, blocks = (
        _count_from_one(tensors, pattern)
        for pattern in (r"encoder\.blocks\.group_(\d+)\.", r"encoder\.blocks\.group_1\.block_(\d+)\.")
    )
    return DvaeConfig(
        width=width, codebook_size=codebook_size, code_width=code_width, groups=groups, blocks=blocks, channels=channels
    )


def _count_from_one(tensors: Tensors, pattern: str) -> int:
    """Count the numbers in tensors' names that the group of ``pattern`` matches. They must be 1, 2, 3 and so on."""
    numbers = {int(match.group(1)) for name in tensors if (match := re.match(pattern, name))}
    if not numbers or numbers != set(range(1, len(numbers) + 1)):
        raise file_error(tensors.name, f"all of {pattern} from 1 on", f"the numbers {sorted(numbers)[:20]}")
    return max(numbers)


def rules_for(config: DvaeConfig) -> list[Rule]:
    """Build the rules of the network; OpenAI numbers groups and blocks from 1."""
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
    """Build the rules of a convolution."""
    return [rule(f"{ours}.kernel", f"{theirs}.w", transform=CONV_KERNEL), rule(f"{ours}.bias", f"{theirs}.b")]
