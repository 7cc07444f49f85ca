"""FID's InceptionV3 (Szegedy et al. 2015, arXiv 1512.00567): TensorFlow's network of 2015-12-05 with 1,008 classes.

It differs from torchvision's network in its pooling: averages leave out the padding, and the last block takes the
maximum. Layers have the names of pytorch-fid and torch-fidelity. The published weights are imported and never trained
here. The network is small, so every device holds all of it.

B batch   H W pixels   h w grid   C channels   D features   c classes
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.batch_norm import BatchNorm
from dalle_jax.layers.conv_blocks import convolve, windows
from dalle_jax.layers.linear import Linear, project
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, WIDTH
from dalle_jax.parallel.layout import constrain

EPSILON = 1e-3
IMAGE_SIZE = 299
SHIFT, SCALE = 128.0, 128.0
"""Pixels are (x - 128) / 128."""


@dataclass(frozen=True)
class InceptionV3Config:
    """Channels per ``unit`` of the tables below, which is 16 in the published network, and the number of classes."""

    unit: int = 16
    classes: int = 1008

    def build(self, rngs: nnx.Rngs) -> "InceptionV3":
        """Create the network with newly initialised weights."""
        return InceptionV3(self, rngs=rngs)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """The lengths of the feature vectors of blocks 0 to 3: 64, 192, 768 and 2,048 in the published network."""
        return 4 * self.unit, 12 * self.unit, 48 * self.unit, 128 * self.unit


@dataclass(frozen=True)
class Step:
    """A convolution: its published name, its output channels in units, its kernel, and its stride.

    Its padding keeps the size, unless the convolution is strided or ``valid``.
    """

    name: str
    units: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False


Branch: TypeAlias = tuple[Step | tuple[Step, Step], ...]
"""Convolutions in order. A pair has the same input, and its outputs are joined."""
Pooling: TypeAlias = Literal["average", "maximum", "maximum_strided"]

STEM = (
    (
        Step("Conv2d_1a_3x3", 2, (3, 3), stride=2),
        Step("Conv2d_2a_3x3", 2, (3, 3), valid=True),
        Step("Conv2d_2b_3x3", 4, (3, 3)),
    ),
    (Step("Conv2d_3b_1x1", 5), Step("Conv2d_4a_3x3", 12, (3, 3), valid=True)),
)
"""The convolutions before the first and the second pooling of the stem."""


@dataclass(frozen=True)
class Mix:
    """A block: its published name, its branches, and the pooling of its last branch."""

    name: str
    branches: tuple[Branch, ...]
    pooling: Pooling


def _block_a(name: str, pooled: int) -> Mix:
    double = Step("branch3x3dbl_1", 4), Step("branch3x3dbl_2", 6, (3, 3)), Step("branch3x3dbl_3", 6, (3, 3))
    five = Step("branch5x5_1", 3), Step("branch5x5_2", 4, (5, 5))
    return Mix(name, ((Step("branch1x1", 4),), five, double, (Step("branch_pool", pooled),)), "average")


def _block_b(name: str) -> Mix:
    last = Step("branch3x3dbl_3", 6, (3, 3), stride=2)
    double = Step("branch3x3dbl_1", 4), Step("branch3x3dbl_2", 6, (3, 3)), last
    return Mix(name, ((Step("branch3x3", 24, (3, 3), stride=2),), double, ()), "maximum_strided")


def _block_c(name: str, inner: int) -> Mix:
    seven = (
        Step("branch7x7_1", inner),
        Step("branch7x7_2", inner, (1, 7)),
        Step("branch7x7_3", 12, (7, 1)),
    )
    double = (
        Step("branch7x7dbl_1", inner),
        Step("branch7x7dbl_2", inner, (7, 1)),
        Step("branch7x7dbl_3", inner, (1, 7)),
        Step("branch7x7dbl_4", inner, (7, 1)),
        Step("branch7x7dbl_5", 12, (1, 7)),
    )
    return Mix(name, ((Step("branch1x1", 12),), seven, double, (Step("branch_pool", 12),)), "average")


def _block_d(name: str) -> Mix:
    three = Step("branch3x3_1", 12), Step("branch3x3_2", 20, (3, 3), stride=2)
    seven = (
        Step("branch7x7x3_1", 12),
        Step("branch7x7x3_2", 12, (1, 7)),
        Step("branch7x7x3_3", 12, (7, 1)),
        Step("branch7x7x3_4", 12, (3, 3), stride=2),
    )
    return Mix(name, (three, seven, ()), "maximum_strided")


def _block_e(name: str, pooling: Pooling) -> Mix:
    pair = Step("branch3x3_2a", 24, (1, 3)), Step("branch3x3_2b", 24, (3, 1))
    double = Step("branch3x3dbl_3a", 24, (1, 3)), Step("branch3x3dbl_3b", 24, (3, 1))
    three: Branch = (Step("branch3x3_1", 24), pair)
    two_threes: Branch = (Step("branch3x3dbl_1", 28), Step("branch3x3dbl_2", 24, (3, 3)), double)
    return Mix(name, ((Step("branch1x1", 20),), three, two_threes, (Step("branch_pool", 12),)), pooling)


BLOCKS = (
    (
        _block_a("Mixed_5b", 2), _block_a("Mixed_5c", 4), _block_a("Mixed_5d", 4), _block_b("Mixed_6a"),
        _block_c("Mixed_6b", 8), _block_c("Mixed_6c", 10), _block_c("Mixed_6d", 10), _block_c("Mixed_6e", 12),
    ),
    (_block_d("Mixed_7a"), _block_e("Mixed_7b", "average"), _block_e("Mixed_7c", "maximum")),
)  # fmt: skip
"""The blocks up to feature vector 2, and those up to feature vector 3."""


def steps_of(branches: tuple[Branch, ...]) -> list[Step]:
    """List the convolutions of branches, pairs included."""
    return [one for branch in branches for step in branch for one in (step if isinstance(step, tuple) else (step,))]


def pool(x: Float[Array, "B H W C"], pooling: Pooling) -> Float[Array, "B h w C"]:
    """Pool 3 x 3 windows. Without a stride the size stays, and values outside the image do not count."""
    if pooling == "maximum_strided":
        return windows(x, jnp.maximum, 2)
    outside = ((0, 0), (1, 1), (1, 1), (0, 0))
    if pooling == "maximum":
        return windows(jnp.pad(x, outside, constant_values=-np.inf), jnp.maximum, 1)
    rows, columns = ([min(i + 2, size) - max(i - 1, 0) for i in range(size)] for size in x.shape[1:3])
    return windows(jnp.pad(x, outside), jnp.add, 1) / np.outer(rows, columns).astype(np.float32)[:, :, None]


class InceptionConv(nnx.Module):
    """A convolution without bias, a batch norm with fixed statistics, and a ReLU."""

    def __init__(self, step: Step, channels: int, features: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        value = init(rngs.params(), (*step.kernel, channels, features), jnp.float32)
        self.kernel = nnx.Param(value, axes=(None,) * 4)
        self.norm = BatchNorm(features, axes=(None,), epsilon=EPSILON)
        rows, columns = (0 if step.valid or step.stride > 1 else side // 2 for side in step.kernel)
        self.stride, self.padding = step.stride, ((rows, rows), (columns, columns))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Apply the convolution, the norm and the ReLU."""
        padding = (self.padding[0], self.padding[1])
        return jax.nn.relu(self.norm(convolve(x, self.kernel[...], stride=self.stride, padding=padding), False))


class Mixed(nnx.Module):
    """A block of branches with the same input, whose outputs are joined."""

    def __init__(self, mix: Mix, channels: int, unit: int, *, rngs: nnx.Rngs):
        self.mix = mix
        convs, self.channels = {}, 0
        for branch in mix.branches:
            inputs, outputs = channels, channels
            for step in branch:
                pair = step if isinstance(step, tuple) else (step,)
                for one in pair:
                    convs[one.name] = InceptionConv(one, inputs, one.units * unit, rngs=rngs)
                outputs = inputs = sum(one.units for one in pair) * unit
            self.channels += outputs
        self.convs = nnx.Dict(convs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Apply all branches; the last one begins with the pooling."""
        found = []
        for index, branch in enumerate(self.mix.branches):
            y = pool(x, self.mix.pooling) if index == len(self.mix.branches) - 1 else x
            for step in branch:
                pair = step if isinstance(step, tuple) else (step,)
                y = jnp.concatenate([self.convs[one.name](y) for one in pair], axis=-1)
            found.append(y)
        return constrain(jnp.concatenate(found, axis=-1), BATCH, HEIGHT, WIDTH, CHANNELS)


class InceptionV3(nnx.Module):
    """The classifier. Its feature vectors are means over the grid after two poolings and after two groups of blocks."""

    def __init__(self, config: InceptionV3Config, *, rngs: nnx.Rngs):
        self.config = config
        channels, stem, blocks = 3, {}, {}
        for step in (step for part in STEM for step in part):
            stem[step.name] = InceptionConv(step, channels, step.units * config.unit, rngs=rngs)
            channels = step.units * config.unit
        for mix in (mix for part in BLOCKS for mix in part):
            blocks[mix.name] = Mixed(mix, channels, config.unit, rngs=rngs)
            channels = blocks[mix.name].channels
        self.stem, self.blocks = nnx.Dict(stem), nnx.Dict(blocks)
        self.classify = Linear(channels, config.classes, axes=(None, None), rngs=rngs)

    def features(self, pixels: Float[Array, "B H W 3"], block: int = 3) -> Float[Array, "B D"]:
        """Return feature vector ``block`` of images of 299 x 299 with values in 0..255; vector 3 is that of FID."""
        x = (pixels - SHIFT) / SCALE
        for part in STEM[: block + 1]:
            for step in part:
                x = self.stem[step.name](x)
            x = pool(x, "maximum_strided")
        for group in BLOCKS[: max(block - 1, 0)]:
            for mix in group:
                x = self.blocks[mix.name](x)
        return x.mean(axis=(1, 2))

    def logits(self, features: Float[Array, "B D"]) -> Float[Array, "B c"]:
        """Return the logits of the classes from feature vector 3."""
        return self.classify(features)

    def probabilities(self, features: Float[Array, "B D"]) -> Float[Array, "B c"]:
        """Return class probabilities as the Inception Score takes them: logits without the bias."""
        return jax.nn.softmax(project(features, self.classify.kernel[...], 1), axis=-1)
