"""Rematerialisation policies: the activations that a block stores for its backward pass.

    none       all activations
    dots       the results of matrix products with parameters (products without batch dimensions)
    attention  queries, keys, values and the output of attention; the MLP is recomputed
    full       only the block's input

Each policy stores less and recomputes more than the one above it. Loss and gradients are the same.
"""

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dalle_jax.arrays import Array

Remat: TypeAlias = Literal["none", "dots", "attention", "full"]

ATTENTION = "attention"
"""The ``checkpoint_name`` of attention's operands and outputs, which the policy "attention" stores."""

Value = TypeVar("Value")
P = ParamSpec("P")


def name_attention(x: Value) -> Value:
    """Return ``x``, marked as an activation of attention that ``remat="attention"`` stores."""
    return checkpoint_name(x, ATTENTION)


def rematerialised(function: Callable[P, Value], remat: Remat, *, in_loop: bool) -> Callable[P, Value]:
    """Wrap a function in ``jax.checkpoint`` with the policy of ``remat``.

    Set ``in_loop`` inside the body of a scan. Outside of a scan, XLA could merge the recomputation with the forward
    pass (common subexpression elimination) and store the activations after all. ``prevent_cse`` then forbids that.
    """
    if remat == "none":
        return function
    policies = {
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
        "full": jax.checkpoint_policies.nothing_saveable,
    }
    return jax.checkpoint(function, policy=policies[remat], prevent_cse=not in_loop)


def run_block(block: nnx.Module, x: Array, remat: Remat) -> Array:
    """Call ``block(x)`` outside of any loop, with the policy of ``remat``. The block must not set its variables."""
    if remat == "none":
        return block(x)  # type: ignore[operator]
    graph, state = nnx.split(block)
    return rematerialised(lambda state, x: nnx.merge(graph, state)(x), remat, in_loop=False)(state, x)
