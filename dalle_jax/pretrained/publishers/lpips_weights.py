"""LPIPS with VGG-16: one state dict with all weights, or torchvision's VGG-16 and LPIPS's own weights in two files.

A checkpoint of taming's VQGAN contains all of them, because LPIPS is a part of its loss.
"""

import re
from pathlib import Path

from dalle_jax.models.lpips import LpipsConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import CONV_KERNEL, Rule, reshaped, rule
from dalle_jax.pretrained.publisher import Published, tensor_shape
from dalle_jax.pretrained.signatures import LPIPS, LPIPS_FEATURES, LPIPS_OWN, VGG16, locate

GROUPS = 5
VGG_FILE, OWN_FILE = "vgg16*.pth", "vgg*.pth"
IGNORED = {
    r"scaling_layer\..*": "the mean and standard deviation of ImageNet, which are constants here",
    r"lins\..*": "the same weights as lin0 to lin4",
    r"classifier\..*": "VGG-16's classifier, which LPIPS does not use",
}


def published(source: Path) -> Published:
    """Read LPIPS in a state dict, or in a folder with ``vgg16….pth`` (torchvision's) and ``vgg….pth`` (LPIPS's own)."""
    files, kinds = [source], [(LPIPS, LPIPS_FEATURES)]
    if source.is_dir():
        files, kinds = _two_files(source), [(VGG16, LPIPS), (LPIPS_OWN, LPIPS)]
    tensors = Tensors(str(source), {})
    for file, signatures in zip(files, kinds, strict=True):
        tensors.add("", locate(read_tensors(file), *signatures))
    names = convolutions(tensors)
    widths = tuple(tensor_shape(tensors, f"{group[0]}.weight", 4)[0] for group in names)
    rules: list[Rule] = []
    for index, (group, width) in enumerate(zip(names, widths, strict=True)):
        for depth, name in enumerate(group):
            ours = f"groups.{index}.{depth}"
            rules.append(rule(f"{ours}.kernel", f"{name}.weight", transform=CONV_KERNEL))
            rules.append(rule(f"{ours}.bias", f"{name}.bias"))
        rules.append(
            rule(f"weights.{index}", f"lin{index}.model.1.weight", transform=reshaped(width, stored=(1, width, 1, 1)))
        )
    return Published(
        config=LpipsConfig(widths=widths, depths=tuple(map(len, names))),
        tensors=tensors,
        rules=rules,
        ignored=IGNORED,
        files=tuple(files),
        licence="BSD-2-Clause (PerceptualSimilarity); VGG-16: torchvision's",
    )


def convolutions(tensors: Tensors) -> list[list[str]]:
    """List the names of the convolutions in each group.

    Groups are LPIPS's slices, or torchvision's features split at each pooling.

    In torchvision's names, the numbers of two convolutions differ by 2 if only a ReLU is between them. They differ by 3
    if a pooling is there too.
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
        raise file_error(tensors.name, f"{GROUPS} groups of convolutions (net.slice… or features…)", str(len(groups)))
    return groups


def _two_files(folder: Path) -> list[Path]:
    network = sorted(folder.glob(VGG_FILE))
    own = [file for file in sorted(folder.glob(OWN_FILE)) if file not in network]
    if len(network) != 1 or len(own) != 1:
        raise file_error(
            folder,
            f"one {VGG_FILE} (torchvision's VGG-16) and one other {OWN_FILE} (LPIPS's own weights)",
            f"{len(network)} and {len(own)}",
        )
    return [network[0], own[0]]
