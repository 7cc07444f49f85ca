"""LPIPS's weights with VGG-16: one state dict of the whole, or torchvision's VGG-16 and LPIPS's own beside it.

A checkpoint of taming's VQGAN holds the whole, since LPIPS is a part of its loss.
"""

import re
from pathlib import Path

from dalle_jax.models.lpips import LpipsConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Stored, Tensors, refused
from dalle_jax.pretrained.mapping import KERNEL, How, Rule, rule
from dalle_jax.pretrained.publisher import Published, shape
from dalle_jax.pretrained.publishers.taming_vqgan import state_of

GROUPS = 5
VGG_FILE, OWN_FILE = "vgg16*.pth", "vgg*.pth"
IN_TAMING = "loss.perceptual_loss."
IGNORED = {
    r"scaling_layer\..*": "the mean and deviation of ImageNet, which are constants here",
    r"lins\..*": "the same weights as lin0 to lin4",
    r"classifier\..*": "VGG-16's classifier, which LPIPS does not use",
    r"(encoder|decoder|quantize|quant_conv|post_quant_conv|loss)\..*": "the VQGAN that it came with",
}


def published(source: Path) -> Published:
    """LPIPS in a state dict, or in a folder with ``vgg16….pth`` (torchvision's) and ``vgg….pth`` (LPIPS's own)."""
    files = [source] if source.is_file() else _two_files(source)
    stored: dict[str, Stored] = {}
    left: dict[str, str] = {}
    for file in files:
        inside = state_of(read_tensors(file))
        left |= inside.left
        for name, one in inside.stored.items():
            own = name.removeprefix(IN_TAMING)
            if own in stored:
                raise refused(file, "every tensor once", f"{own!r} twice")
            stored[own] = one
    tensors = Tensors(str(source), stored)
    tensors.left = left
    names = convolutions(tensors)
    widths = tuple(shape(tensors, f"{group[0]}.weight", 4)[0] for group in names)
    rules: list[Rule] = []
    for index, (group, width) in enumerate(zip(names, widths, strict=True)):
        for depth, name in enumerate(group):
            ours = f"groups.{index}.{depth}"
            rules.append(rule(f"{ours}.kernel", f"{name}.weight", how=KERNEL))
            rules.append(rule(f"{ours}.bias", f"{name}.bias"))
        rules.append(rule(f"weights.{index}", f"lin{index}.model.1.weight", how=_row(width)))
    return Published(
        config=LpipsConfig(widths=widths, depths=tuple(map(len, names))),
        tensors=tensors,
        rules=rules,
        ignored=IGNORED,
        files=tuple(files),
        licence="BSD-2-Clause (PerceptualSimilarity); VGG-16: torchvision's",
    )


def convolutions(tensors: Tensors) -> list[list[str]]:
    """The names of each group's convolutions: LPIPS's slices, or torchvision's features, cut at each pooling.

    Numbers grow by 2 from one convolution to the next, a ReLU between them, and by 3 where there is a pooling too.
    """
    found: dict[int, str] = {}
    for name in tensors:
        match = re.fullmatch(r"(net\.slice\d\.|features\.)(\d+)\.weight", name)
        if match:
            found[int(match[2])] = name.removesuffix(".weight")
    groups: list[list[str]] = []
    for number in sorted(found):
        if number - 2 in found:
            groups[-1].append(found[number])
        else:
            groups.append([found[number]])
    if len(groups) != GROUPS:
        raise refused(tensors.name, f"{GROUPS} groups of convolutions (net.slice… or features…)", str(len(groups)))
    return groups


def _row(width: int) -> How:
    """One row of a 1x1 convolution to a single channel."""
    return How(lambda x: x.reshape(width), lambda x: (x.reshape(1, width, 1, 1),))


def _two_files(folder: Path) -> list[Path]:
    network = sorted(folder.glob(VGG_FILE))
    own = [file for file in sorted(folder.glob(OWN_FILE)) if file not in network]
    if len(network) != 1 or len(own) != 1:
        raise refused(
            folder,
            f"one {VGG_FILE} (torchvision's VGG-16) and one other {OWN_FILE} (LPIPS's own weights)",
            f"{len(network)} and {len(own)}",
        )
    return [network[0], own[0]]
