"""Blocks one after another, unrolled or scanned: the only loop over layers.

All blocks of a stack hold parameters of the same shapes; what differs between layers (the kind of attention) is a
static value. Unrolled, each block is a module in a list. Scanned, the compiler sees one period of the kinds, however
deep the stack is: the parameters of all whole periods are one module's, which carry a leading LAYERS axis, and the
layers that remain (an odd one at the end, and what of its period came before it) are in a list.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from flax import nnx

from dalle_jax.arrays import Array
from dalle_jax.layers.remat import Remat, rematerialised
from dalle_jax.parallel.axes import LAYERS

Apply = Callable[[Any, Array, Any, Any], tuple[Array, Any]]
"""``apply(block, x, static, extra) -> (x, output)``: ``static`` and ``extra`` belong to the layer."""


class Stack(nnx.Module):
    """One block made by ``make_block(rngs)`` for each of ``statics``, which hold what is static about its layer.

    ``remat`` says what each block keeps for its gradient: layers/remat.py.
    """

    def __init__(
        self,
        make_block: Callable[[nnx.Rngs], nnx.Module],
        statics: Sequence[Hashable],
        *,
        scan: bool,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        self.statics = tuple(statics)
        self.remat = remat
        self.period, self.scanned = _repetition(self.statics) if scan else (1, 0)
        keys = jax.random.split(rngs.params(), self.depth)
        self.blocks: Any
        if self.scanned:
            self.blocks = _stacked(make_block, keys[: self.scanned])
            self.rest = nnx.List([make_block(nnx.Rngs(key)) for key in keys[self.scanned :]])
        else:
            self.blocks = nnx.List([make_block(nnx.Rngs(key)) for key in keys])
            self.rest = nnx.List([])

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.statics)

    def __call__(self, apply: Apply, x: Array, extras: Any = None) -> tuple[Array, list[Any]]:
        """Folds ``x`` through the blocks; returns it with each layer's output.

        ``extras`` is None or a tree of arrays that lead with the depth.
        """
        outputs = []
        if self.scanned:
            x, outputs = self._scan(apply, x, extras)
        for layer in range(self.scanned, self.depth):
            extra = jax.tree.map(lambda leaf, layer=layer: leaf[layer], extras)
            x, output = self._run(apply, self.block(layer), x, self.statics[layer], extra, in_loop=False)
            outputs.append(output)
        return x, outputs

    def block(self, layer: int) -> Any:
        """One block, whichever way the stack keeps it."""
        if not self.scanned:
            return self.blocks[layer]
        if layer >= self.scanned:
            return self.rest[layer - self.scanned]
        graph, state = nnx.split(self.blocks)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], state))

    def _scan(self, apply: Apply, x: Array, extras: Any) -> tuple[Array, list[Any]]:
        graph, state = nnx.split(self.blocks)
        period, groups = self.period, self.scanned // self.period

        def body(x: Array, group: tuple[Any, Any]) -> tuple[Array, list[Any]]:
            outputs = []
            for i in range(period):
                block_state, extra = jax.tree.map(lambda leaf, i=i: leaf[i], group)
                block = nnx.merge(graph, block_state)
                x, output = self._run(apply, block, x, self.statics[i], extra, in_loop=True)
                outputs.append(output)
            return x, outputs

        extras = jax.tree.map(lambda leaf: leaf[: self.scanned], extras)
        grouped = jax.tree.map(lambda leaf: leaf.reshape(groups, period, *leaf.shape[1:]), (state, extras))
        x, stacked = jax.lax.scan(body, x, grouped)
        return x, [jax.tree.map(lambda leaf, g=g: leaf[g], out) for g in range(groups) for out in stacked]

    def _run(
        self, apply: Apply, block: Any, x: Array, static: Hashable, extra: Any, *, in_loop: bool
    ) -> tuple[Array, Any]:
        if self.remat == "none":
            return apply(block, x, static, extra)
        graph, state = nnx.split(block)

        def call(state: Any, x: Array, extra: Any) -> tuple[Array, Any]:
            return apply(nnx.merge(graph, state), x, static, extra)

        return rematerialised(call, self.remat, in_loop=in_loop)(state, x, extra)


def _stacked(make_block: Callable[[nnx.Rngs], nnx.Module], keys: Array) -> Any:
    """One module that holds the parameters of a block per key."""
    state = jax.vmap(lambda key: nnx.split(make_block(nnx.Rngs(key)))[1])(keys)
    graph = nnx.split(nnx.eval_shape(lambda: make_block(nnx.Rngs(0))))[0]
    return nnx.merge(graph, jax.tree.map(_with_layers, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))


def _with_layers(variable: nnx.Variable) -> nnx.Variable:
    axes = variable.get_metadata().get("axes")
    return variable if axes is None else variable.replace(axes=(LAYERS, *axes))


def _repetition(statics: Sequence[Hashable]) -> tuple[int, int]:
    """The period with which the fewest blocks are compiled, and how many of the first layers it covers, or 0.

    Compiled are one period and the layers that it does not cover.
    """
    depth = len(statics)
    best = (depth, 1, 0)
    for period in range(1, depth // 2 + 1):
        covered = period
        while tuple(statics[covered : covered + period]) == tuple(statics[:period]):
            covered += period
        if covered > period:
            best = min(best, (period + depth - covered, period, covered))
    return best[1], best[2]


def stack_keys(key: Array | None, depth: int) -> Array | None:
    """One key per layer, or None."""
    return None if key is None else jax.random.split(key, depth)
