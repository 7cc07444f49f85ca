"""LPIPS with VGG-16 or AlexNet: one state dict with all weights, or torchvision's network and LPIPS's own in two files.

A checkpoint of taming's VQGAN contains all of them, because LPIPS is a part of its loss.
"""

import re
from pathlib import Path

from dalle_jax.models.lpips import LpipsConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import CONV_KERNEL, Rule, reshaped, rule
from dalle_jax.pretrained.publisher import Published, tensor_shape
from dalle_jax.pretrained.signatures import ALEXNET, LPIPS, LPIPS_FEATURES, LPIPS_OWN, VGG16, Signature, locate

GROUPS = 5
FILES = (("vgg16*.pth", "vgg*.pth"), ("alexnet*.pth", "alex*.pth"))
"""Names of torchvision's file and of LPIPS's own, for each network."""
ALEXNET_NUMBERS = [0, 3, 6, 8, 10]
"""Numbers of AlexNet's convolutions; each is a group."""
IGNORED = {
    r"scaling_layer\..*": "the mean and standard deviation of ImageNet, which are constants here",
    r"lins\..*": "the same weights as lin0 to lin4",
    r"classifier\..*": "the network's classifier, which LPIPS does not use",
}


def published(source: Path) -> Published:
    """Read LPIPS in a state dict, or in a folder with two files.

    They are ``vgg16….pth`` or ``alexnet….pth`` (torchvision's), and ``vgg.pth`` or ``alex.pth`` (LPIPS's own).
    """
    files: list[Path] = [source]
    kinds: list[tuple[Signature, ...]] = [(LPIPS, LPIPS_FEATURES)]
    if source.is_dir():
        files, kinds = _two_files(source), [(VGG16, ALEXNET, LPIPS), (LPIPS_OWN, LPIPS)]
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
        config=LpipsConfig(
            widths=widths,
            depths=tuple(map(len, names)),
            backbone="alexnet" if all(len(group) == 1 for group in names) else "vgg16",
        ),
        tensors=tensors,
        rules=rules,
        ignored=IGNORED,
        files=tuple(files),
        licence="BSD-2-Clause (PerceptualSimilarity); the network: torchvision's",
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
    if sorted(found) == ALEXNET_NUMBERS:
        return [[found[number]] for number in ALEXNET_NUMBERS]
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
    found: list[tuple[list[Path], list[Path]]] = []
    for network_name, own_name in FILES:
        network = sorted(folder.glob(network_name))
        own = [file for file in sorted(folder.glob(own_name)) if file not in network]
        if network or own:
            found.append((network, own))
    files = [file for pair in found for one in pair for file in one[:1]]
    if len(found) != 1 or len(files) != 2 or sum(map(len, found[0])) != 2:
        of_each = (f"one {network} (torchvision's) and one other {own} (LPIPS's own)" for network, own in FILES)
        got = " and ".join(str(len(one)) for pair in found for one in pair) or "none"
        raise file_error(folder, f"two files: {', or '.join(of_each)}", got)
    return files
