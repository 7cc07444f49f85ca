"""The signature of a call to a compiled function, as text, which explains why it is compiled again."""

from collections.abc import Mapping

import jax

from dalle_jax.arrays import PyTree


def signature(tree: PyTree) -> dict[str, str]:
    """Return the dtype, shape and sharding of each array, by path. XLA compiles a program for one such signature.

    Arrays that were donated are allowed, since they keep these properties.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=" "): _describe(leaf) for path, leaf in leaves}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the first three differences of two signatures, in words."""
    changed = [
        f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}"
        for name in [*now, *(before.keys() - now.keys())]
        if before.get(name) != now.get(name)
    ]
    if not changed:
        return "the dtypes, shapes and shardings of its arrays are unchanged, so the reason is something else"
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")


def _describe(leaf: object) -> str:
    aval = jax.typeof(leaf)
    weak = " (weak)" if getattr(aval, "weak_type", False) else ""
    spec = getattr(getattr(leaf, "sharding", None), "spec", None)
    return f"{aval.dtype}{list(aval.shape)}{weak}" + (f" over {tuple(spec)}" if spec else "")
