"""What a compiled function was called with, in words, so that compiling it again can be explained."""

from collections.abc import Mapping
from typing import Any

import jax


def signature(tree: Any) -> dict[str, str]:
    """Each array by its path: dtype, shape and how it is laid out, which is what a program is compiled for.

    Arrays that were donated may be asked too: they have lost their values, not these.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=" "): _words(leaf) for path, leaf in leaves}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What changed, the first three of it; or that it cannot be seen in the arrays."""
    changed = [
        f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}"
        for name in [*now, *(before.keys() - now.keys())]
        if before.get(name) != now.get(name)
    ]
    if not changed:
        return "its arrays have the dtypes, shapes and layouts they had, so the reason is not among them"
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")


def _words(leaf: Any) -> str:
    aval = jax.typeof(leaf)
    weak = " (weak)" if getattr(aval, "weak_type", False) else ""
    spec = getattr(getattr(leaf, "sharding", None), "spec", None)
    return f"{aval.dtype}{list(aval.shape)}{weak}" + (f" over {tuple(spec)}" if spec else "")
