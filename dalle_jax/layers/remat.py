"""What a block keeps for its backward pass and what it computes again there, by name.

    none       everything is kept
    dots       the results of products with parameters (those without batch dimensions)
    attention  queries, keys, values and what attention gives; the MLP is computed again
    full       nothing but what went into the block

In this order less is kept and more is computed again; loss and gradients are the same.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypeVar

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dalle_jax.arrays import Array

Remat: TypeAlias = Literal["none", "dots", "attention", "full"]

ATTENTION = "attention"
"""The name under which attention's operands and results are known to the policy of that name."""

Value = TypeVar("Value")


def name_attention(x: Value) -> Value:
    """``x`` unchanged, marked as a part of attention that ``remat="attention"`` keeps."""
    return checkpoint_name(x, ATTENTION)


def rematerialised(function: Callable[..., Any], remat: Remat, *, in_loop: bool) -> Callable[..., Any]:
    """The function, which keeps for its gradient what ``remat`` says.

    ``in_loop``: it is called within the body of a scan, whose forward and backward pass XLA cannot merge. Elsewhere it
    is kept from seeing that both compute the same, or it would compute it once and keep it after all.
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
    """``block(x)`` outside of any loop, keeping what ``remat`` says; the block may read its variables, not set them."""
    if remat == "none":
        return block(x)  # type: ignore[operator]
    graph, state = nnx.split(block)
    return rematerialised(lambda state, x: nnx.merge(graph, state)(x), remat, in_loop=False)(state, x)
