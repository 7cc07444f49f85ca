"""The layout of a transformer's weights in a loop of decoding steps on a CPU, where XLA reads every weight per step."""

from typing import TypeVar

from flax import nnx

from dalle_jax.layers.linear import Linear
from dalle_jax.layers.stack import Stack
from dalle_jax.parallel.layout import platform

Module = TypeVar("Module", bound=nnx.Module)


WIDE, NARROW = 1024, 128
"""The fewest columns for which a kernel gains from panels: of any model, and of a large one with at most 8 rows."""
CACHED = 2**24
"""The bytes of weights that stay in a CPU's cache from step to step. A larger model's narrow kernels gain too."""


def for_decoding(module: Module, rows: int) -> Module:
    """Return the module, or on a CPU a copy whose weights are laid out for a loop of decoding steps of ``rows`` rows.

    Scanned stacks are unrolled: XLA on a CPU copies the weights of a layer out of their stack before it multiplies. For
    2 to 32 rows, kernels are split into panels. Such products are bound by reading the kernel, and XLA reads panels
    faster than long rows (docs/architecture.md). A single row gains nothing.
    """
    if platform() != "cpu":
        return module
    module = nnx.clone(module)
    for stack in [node for _, node in nnx.iter_graph(module) if isinstance(node, Stack)]:
        stack.unroll()
    linears = [node for _, node in nnx.iter_graph(module) if isinstance(node, Linear)]
    streamed = sum(linear.kernel.size * linear.dtype.itemsize for linear in linears) > CACHED
    if 2 <= rows <= 32:
        for linear in linears:
            linear.split_into_panels(NARROW if streamed and rows <= 8 else WIDE)
    return module
