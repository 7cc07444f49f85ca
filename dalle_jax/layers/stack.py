"""Blocks one after another, unrolled or scanned: the only loop over layers.

All blocks of a stack hold parameters of the same shapes; what differs between layers (the kind of attention) is a
static argument. Unrolled, each block is a module in a list. Scanned, the parameters carry a leading LAYERS axis and the
compiler sees one period of the kinds, however deep the stack is.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from flax import nnx

from dalle_jax.arrays import Array
from dalle_jax.parallel.axes import LAYERS

Static = TypeVar("Static")
Apply = Callable[[Any, Array, Any, Any], tuple[Array, Any]]
"""``apply(block, x, static, extra) -> (x, output)``: ``static`` and ``extra`` belong to the layer."""


class Stack(nnx.Module):
    """``depth`` blocks made by ``make_block(rngs)``."""

    def __init__(self, make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, *, scan: bool, rngs: nnx.Rngs):
        keys = jax.random.split(rngs.params(), depth)
        self.depth = depth
        self.scan = scan
        self.blocks: Any
        if not scan:
            self.blocks = nnx.List([make_block(nnx.Rngs(key)) for key in keys])
            return
        state = jax.vmap(lambda key: nnx.split(make_block(nnx.Rngs(key)))[1])(keys)
        graph = nnx.split(nnx.eval_shape(lambda: make_block(nnx.Rngs(0))))[0]
        self.blocks = nnx.merge(graph, jax.tree.map(_with_layers, state, is_leaf=_is_variable))

    def __call__(
        self, apply: Apply, x: Array, statics: Sequence[Static], extras: Any = None
    ) -> tuple[Array, list[Any]]:
        """Folds ``x`` through the blocks; returns it with each layer's output.

        ``statics`` holds one hashable value per layer; ``extras`` is None or a tree of arrays that lead with the depth.
        """
        if not self.scan:
            return self._unrolled(apply, x, statics, extras, range(self.depth))
        period = _period(statics)
        whole = self.depth // period
        if whole < 2:
            return self._unrolled(apply, x, statics, extras, range(self.depth))
        graph, state = nnx.split(self.blocks)

        def body(x: Array, group: tuple[Any, Any]) -> tuple[Array, list[Any]]:
            outputs = []
            for i in range(period):
                block_state, extra = jax.tree.map(lambda leaf, i=i: leaf[i], group)
                x, output = apply(nnx.merge(graph, block_state), x, statics[i], extra)
                outputs.append(output)
            return x, outputs

        grouped = jax.tree.map(
            lambda leaf: leaf[: whole * period].reshape(whole, period, *leaf.shape[1:]), (state, extras)
        )
        x, stacked = jax.lax.scan(body, x, grouped)
        outputs = [jax.tree.map(lambda leaf, g=g: leaf[g], out) for g in range(whole) for out in stacked]
        x, rest = self._unrolled(apply, x, statics, extras, range(whole * period, self.depth))
        return x, outputs + rest

    def block(self, layer: int) -> Any:
        """One block, whichever way the stack keeps it."""
        if not self.scan:
            return self.blocks[layer]
        graph, state = nnx.split(self.blocks)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], state))

    def _unrolled(
        self, apply: Apply, x: Array, statics: Sequence[Static], extras: Any, layers: range
    ) -> tuple[Array, list[Any]]:
        outputs = []
        for layer in layers:
            extra = jax.tree.map(lambda leaf, layer=layer: leaf[layer], extras)
            x, output = apply(self.block(layer), x, statics[layer], extra)
            outputs.append(output)
        return x, outputs


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)


def _with_layers(variable: nnx.Variable) -> nnx.Variable:
    axes = variable.get_metadata().get("axes")
    return variable if axes is None else variable.replace(axes=(LAYERS, *axes))


def _period(statics: Sequence[Static]) -> int:
    """The shortest period that covers the most layers in whole repetitions, counted from the first."""
    depth = len(statics)
    covered = {p: max(n for n in range(p, depth + 1, p) if list(statics[:n]) == list(statics[:p]) * (n // p))
               for p in range(1, depth + 1)}  # fmt: skip
    repeated = {p: n for p, n in covered.items() if n > p}
    return min(repeated, key=lambda p: (depth - repeated[p] + p, p)) if repeated else depth


def stack_keys(key: Array | None, depth: int) -> Array | None:
    """One key per layer, or None."""
    return None if key is None else jax.random.split(key, depth)
