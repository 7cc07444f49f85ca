"""Blocks one after another, unrolled or scanned: the only loop over layers.

All blocks of a stack hold parameters of the same shapes; what differs between layers (the kind of attention) is a
static value. Unrolled, each block is a module in a list. Scanned, the compiler sees one period of the kinds, however
deep the stack is: the parameters of all whole periods are one module's, which carry a leading LAYERS axis, and the
layers that remain (an odd one at the end, and what of its period came before it) are in a list.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.layers.remat import Remat, rematerialised
from dalle_jax.parallel.axes import LAYERS

Apply = Callable[[Any, Array, Any, Any], tuple[Array, Any]]
"""``apply(block, x, static, extra) -> (x, output)``: ``static`` and ``extra`` belong to the layer."""

Write = Callable[[Any, Any, Any, Array | None], Any]
"""``write(kept, static, output, group) -> kept``, where ``kept`` holds the layers of all groups, or one if None."""


class Layered(NamedTuple):
    """A tree of arrays for each layer of a stack.

    ``repeated`` holds one for each place in the period, whose arrays carry the repetitions (groups) on their second
    axis; ``rest`` one for each layer after them.
    """

    repeated: tuple[Any, ...]
    rest: tuple[Any, ...]


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

    def __call__(self, apply: Apply, x: Array, extras: Any = None) -> tuple[Array, Layered]:
        """Folds ``x`` through the blocks; returns it with each layer's output, whose arrays lead with the batch.

        ``extras`` is None or a tree of arrays that lead with the depth.
        """
        repeated: tuple[Any, ...] = ()
        outputs = []
        if self.scanned:
            x, repeated = self._scan(apply, x, extras)
        for layer in range(self.scanned, self.depth):
            extra = jax.tree.map(lambda leaf, layer=layer: leaf[layer], extras)
            x, output = self._run(apply, self.block(layer), x, self.statics[layer], extra, in_loop=False)
            outputs.append(output)
        return x, Layered(repeated, tuple(outputs))

    def step(self, apply: Apply, write: Write, x: Array, kept: Layered) -> tuple[Array, Layered]:
        """As a call whose extras are what is kept of each layer, to which ``write`` then adds the layer's output.

        In a loop it is written in place: nothing but the new output is copied.
        """
        repeated = kept.repeated
        if self.scanned:
            x, repeated = self._scan_step(apply, write, x, repeated)
        rest = []
        for layer, layer_kept in zip(range(self.scanned, self.depth), kept.rest, strict=True):
            x, output = apply(self.block(layer), x, self.statics[layer], layer_kept)
            rest.append(write(layer_kept, self.statics[layer], output, None))
        return x, Layered(repeated, tuple(rest))

    def map(self, function: Callable[[Any, Any], Any], kept: Layered) -> Layered:
        """``function(static, tree)`` of each tree; it must not mind the groups on the second axis."""
        return Layered(
            tuple(function(static, tree) for static, tree in zip(self.statics, kept.repeated, strict=False)),
            tuple(function(*one) for one in zip(self.statics[self.scanned :], kept.rest, strict=True)),
        )

    def block(self, layer: int) -> Any:
        """One block, whichever way the stack keeps it."""
        if not self.scanned:
            return self.blocks[layer]
        if layer >= self.scanned:
            return self.rest[layer - self.scanned]
        graph, state = nnx.split(self.blocks)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], state))

    def _grouped(self, tree: Any) -> Any:
        """Arrays that lead with the scanned layers, so that they lead with groups and then places of the period."""
        groups = self.scanned // self.period
        return jax.tree.map(lambda leaf: leaf.reshape(groups, self.period, *leaf.shape[1:]), tree)

    def _scan(self, apply: Apply, x: Array, extras: Any) -> tuple[Array, tuple[Any, ...]]:
        graph, state = nnx.split(self.blocks)

        def body(x: Array, group: tuple[Any, Any]) -> tuple[Array, tuple[Any, ...]]:
            outputs = []
            for i in range(self.period):
                block_state, extra = jax.tree.map(lambda leaf, i=i: leaf[i], group)
                block = nnx.merge(graph, block_state)
                x, output = self._run(apply, block, x, self.statics[i], extra, in_loop=True)
                outputs.append(output)
            return x, tuple(outputs)

        extras = jax.tree.map(lambda leaf: leaf[: self.scanned], extras)
        x, outputs = jax.lax.scan(body, x, self._grouped((state, extras)))
        return x, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), outputs)

    def _scan_step(
        self, apply: Apply, write: Write, x: Array, repeated: tuple[Any, ...]
    ) -> tuple[Array, tuple[Any, ...]]:
        graph, state = nnx.split(self.blocks)

        def body(carry: tuple[Array, tuple[Any, ...]], scanned: tuple[Any, Array]) -> tuple[Any, None]:
            (x, kept), (group_state, group) = carry, scanned
            new = []
            for i, whole in enumerate(kept):
                block = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], group_state))
                layer = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, group, 1, keepdims=False), whole)
                x, output = apply(block, x, self.statics[i], layer)
                new.append(write(whole, self.statics[i], output, group))
            return (x, tuple(new)), None

        groups = jnp.arange(self.scanned // self.period)
        return jax.lax.scan(body, (x, repeated), (self._grouped(state), groups))[0]

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


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes a share ``rate`` of the values and scales the rest up; the identity with no key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
