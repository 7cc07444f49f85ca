"""FID's InceptionV3 in the layout of pytorch-fid and torch-fidelity: ``pt_inception-2015-12-05-6726825d.pth``.

TensorFlow's weights of 2015-12-05 under torchvision's names. Each layer has ``conv.weight`` and a batch norm ``bn``.
"""

from pathlib import Path

from dalle_jax.models.vision.inception_v3 import BLOCKS, STEM, InceptionV3Config, steps_of
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import file_error
from dalle_jax.pretrained.mapping import CONV_KERNEL, TRANSPOSE, Rule, rule
from dalle_jax.pretrained.publisher import Published, tensor_shape
from dalle_jax.pretrained.signatures import INCEPTION_V3, locate

IGNORED = {
    r".*\.bn\.num_batches_tracked": "a counter of training",
    r"AuxLogits\..*": "the auxiliary classifier, which only training uses",
}


def published(source: Path) -> Published:
    """Read InceptionV3 from a state dict.

    Torchvision's own weights have the same names but 1,000 classes. They are refused, since FID is not defined by them.
    """
    tensors = locate(read_tensors(source), INCEPTION_V3)
    channels = tensor_shape(tensors, "Conv2d_1a_3x3.conv.weight", 4)[0]
    classes = tensor_shape(tensors, "fc.weight", 2)[0]
    if classes == 1000:
        expected = "FID's InceptionV3 with 1008 classes (pt_inception-2015-12-05-6726825d.pth)"
        raise file_error(source, expected, "one with 1000, such as torchvision's")
    config = InceptionV3Config(unit=max(channels // STEM[0][0].units, 1), classes=classes)
    return Published(
        config=config,
        tensors=tensors,
        rules=network_rules(),
        ignored=IGNORED,
        files=(source,),
        licence="Apache-2.0",
        name="inception-2015-12-05",
    )


def network_rules() -> list[Rule]:
    """List the rules of the network."""
    rules = [one for part in STEM for step in part for one in _conv_rules(f"stem.{step.name}", step.name)]
    for mix in (mix for part in BLOCKS for mix in part):
        for step in steps_of(mix.branches):
            rules += _conv_rules(f"blocks.{mix.name}.convs.{step.name}", f"{mix.name}.{step.name}")
    return [*rules, rule("classify.kernel", "fc.weight", transform=TRANSPOSE), rule("classify.bias", "fc.bias")]


def _conv_rules(ours: str, theirs: str) -> list[Rule]:
    return [
        rule(f"{ours}.kernel", f"{theirs}.conv.weight", transform=CONV_KERNEL),
        rule(f"{ours}.norm.scale", f"{theirs}.bn.weight"),
        rule(f"{ours}.norm.bias", f"{theirs}.bn.bias"),
        rule(f"{ours}.norm.mean", f"{theirs}.bn.running_mean"),
        rule(f"{ours}.norm.variance", f"{theirs}.bn.running_var"),
    ]
