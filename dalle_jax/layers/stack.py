"""A stack of transformer blocks, unrolled or scanned: the only loop over layers.

All blocks of a stack have parameters of the same shapes. Each layer has a static value (its kind of attention).
Unrolled, the blocks are a list of modules. Scanned, XLA compiles one period of the static values, regardless of depth:
the parameters of all whole periods are one module with a leading LAYERS axis, and the remaining layers are a list.

One cached step of DALL·E predicts code i from code i - 1, for M candidates of P prompts. Guidance doubles P. S is the
number of cache slots that the layer's attention reads; the other letters are those of arrays.py.

    sampling/autoregressive.py   sample: the body of lax.scan over i
        |
        |  code i - 1  [P M]
        v
    models/dalle.py              decode
        |
        |  layers/code_tokens.py   embed             [P M]   -> [P M D]
        |  layers/embeddings.py    + GridEmbedding            -> [P M D]
        v
    layers/stack.py              step: the loop over layers
    +---|------------------------------------------------------------------------------------+
    |   |  x  [P M D]                                                                        |
    |   |                                                                                    |
    |   |-- layers/norms.py      LayerNorm          [P M D]                                  |
    |   |   layers/attention.py  qkv                [P M D] -> q, k, v, each [P M N H]       |
    |   |   layers/kv_cache.py   read               layer's cache -> k, v [P M N S H],       |
    |   |                                           visible [S]                              |
    |   |   layers/attention.py  step_attention     scores over context, slots and own key   |
    |   |                                           [P M N C+S+1] -> [P M N H]               |
    |   |                        out                [P M N H] -> [P M D]                     |
    |   +<- residual sum                                                                     |
    |   |                                                                                    |
    |   |-- layers/norms.py, mlp.py                 [P M D] -> [P M F] -> [P M D]            |
    |   +<- residual sum                                                                     |
    |   |                                                                                    |
    |   |-> layers/kv_cache.py   order_after, write k, v [P M N H] -> layer's cache          |
    +---|------------------------------------------------------------------------------------+
        |  x  [P M D]
        v
    models/dalle.py              decode
        |
        |  layers/norms.py         LayerNorm         [P M D]
        |  layers/code_tokens.py   predict           [P M D] -> logits [P M K]
        v
    sampling/autoregressive.py   guide, sampling/filters.py restrict, Gumbel noise, argmax  -> code i  [P M]

A pass of sampling/slots.py is the same with ``update`` in place of ``step``, for B rows and windows of W codes [B W D]:
each layer writes its keys and values first (layers/slot_cache.py).
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key, PyTree
from dalle_jax.layers.layer_keys import LayerKeys, rngs_of
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.remat import Remat, rematerialised
from dalle_jax.parallel.axes import LAYERS
from dalle_jax.parallel.layout import platform

Block = TypeVar("Block", bound=nnx.Module)
Static = TypeVar("Static", bound=Hashable)
Module = TypeVar("Module", bound=nnx.Module)

Apply: TypeAlias = Callable[[Block, Array, Static, PyTree], tuple[Array, PyTree]]
"""``apply(block, x, static, extra) -> (x, output)``; ``static`` and ``extra`` are the values of that layer."""

Write: TypeAlias = Callable[[PyTree, Static, PyTree, Array | None], PyTree]
"""``write(state, static, output, group) -> state`` adds a layer's output to its state.

In the scanned part, ``state`` holds the layers of all groups, and ``group`` is the index at which to write. For the
other layers ``group`` is None.
"""

Change: TypeAlias = Callable[[Block, Array, Static, PyTree, Array | None], tuple[Array, PyTree]]
"""``change(block, x, static, state, group) -> (x, state)`` runs a layer that changes its own state.

In the scanned part, ``state`` holds the layers of all groups, and ``group`` is the index of this one. For the other
layers ``group`` is None.
"""


class Layered(NamedTuple):
    """The pytrees of arrays of a stack, one per layer.

    ``repeated`` has a pytree for each place in the period; the second axis of its arrays is the repetition (group) of
    the period. ``rest`` has a pytree for each layer outside the scan.
    """

    repeated: tuple[PyTree, ...]
    rest: tuple[PyTree, ...]


class Stack(nnx.Module, Generic[Block, Static]):
    """A stack of blocks from ``make_block(rngs)``, one for each of ``statics``, the static values of the layers.

    ``remat`` is the policy of each block (layers/remat.py).
    """

    def __init__(
        self,
        make_block: Callable[[nnx.Rngs], Block],
        statics: Sequence[Static],
        *,
        scan: bool,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        self.statics = tuple(statics)
        self.remat = remat
        self.period, self.scanned = _repetition(self.statics) if scan else (1, 0)
        keys = jax.random.split(rngs.params(), self.depth)
        self.blocks: PyTree
        if self.scanned:
            self.blocks = _stacked(make_block, keys[: self.scanned])
            self.rest = nnx.List([make_block(rngs_of(LayerKeys(key))) for key in keys[self.scanned :]])
        else:
            self.blocks = nnx.List([make_block(rngs_of(LayerKeys(key))) for key in keys])
            self.rest = nnx.List([])

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.statics)

    def __call__(self, apply: Apply[Block, Static], x: Array, extras: PyTree = None) -> tuple[Array, Layered]:
        """Run ``x`` through the blocks; return it and the outputs of the layers, whose first axis is the batch.

        ``extras`` is None or a pytree of arrays whose first axis is the depth.
        """
        repeated: tuple[PyTree, ...] = ()
        outputs = []
        if self.scanned:
            x, repeated = self._scan(apply, x, extras)
        for layer in range(self.scanned, self.depth):
            extra = jax.tree.map(lambda leaf, layer=layer: leaf[layer], extras)
            x, output = self._run(apply, self.block(layer), x, self.statics[layer], extra, in_loop=False)
            outputs.append(output)
        return x, Layered(repeated, tuple(outputs))

    def step(self, apply: Apply[Block, Static], write: Write[Static], x: Array, kept: Layered) -> tuple[Array, Layered]:
        """Run ``x`` through the blocks and return it with the new layer states, such as KV caches.

        ``apply`` gets each layer's state from ``kept``, and ``write`` adds the layer's output to it. In a compiled loop
        the update is in place.
        """
        repeated = kept.repeated
        if self.scanned:
            x, repeated = self._scan_step(apply, write, x, repeated)
        rest = []
        for layer, layer_kept in zip(range(self.scanned, self.depth), kept.rest, strict=True):
            x, output = apply(self.block(layer), x, self.statics[layer], layer_kept)
            rest.append(write(layer_kept, self.statics[layer], output, None))
        return x, Layered(repeated, tuple(rest))

    def update(self, change: Change[Block, Static], x: Array, kept: Layered) -> tuple[Array, Layered]:
        """Run ``x`` through the blocks, each of which changes its state before it reads it (layers/slot_cache.py)."""
        repeated = kept.repeated
        if self.scanned:
            x, repeated = self._scan_update(change, x, repeated)
        rest = []
        for layer, layer_kept in zip(range(self.scanned, self.depth), kept.rest, strict=True):
            x, new = change(self.block(layer), x, self.statics[layer], layer_kept, None)
            rest.append(new)
        return x, Layered(repeated, tuple(rest))

    def map(self, function: Callable[[Static, PyTree], PyTree], kept: Layered) -> Layered:
        """Apply ``function(static, tree)`` to each pytree. The function must work with and without the group axis."""
        return Layered(
            tuple(function(static, tree) for static, tree in zip(self.statics, kept.repeated, strict=False)),
            tuple(function(*one) for one in zip(self.statics[self.scanned :], kept.rest, strict=True)),
        )

    def unroll(self) -> None:
        """Replace the scan by one module for each layer, in place, with slices of the same parameters."""
        self.blocks = nnx.List([self.block(layer) for layer in range(self.depth)])
        self.rest = nnx.List([])
        self.period, self.scanned = 1, 0

    def unrolled(self, kept: Layered) -> Layered:
        """Return pytrees that the stack made before ``unroll`` in the form that it takes now."""
        if self.scanned or not kept.repeated:
            return kept
        groups = range(jax.tree.leaves(kept.repeated)[0].shape[1])
        layers = [jax.tree.map(lambda leaf, i=i: leaf[:, i], place) for i in groups for place in kept.repeated]
        return Layered((), (*layers, *kept.rest))

    def block(self, layer: int) -> Block:
        """Return the block of one layer, whether it is scanned or not."""
        if not self.scanned:
            return self.blocks[layer]
        if layer >= self.scanned:
            return self.rest[layer - self.scanned]
        graph, state = nnx.split(self.blocks)
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], state))

    def _grouped(self, tree: PyTree) -> PyTree:
        """Reshape the first axis of arrays from scanned layers to groups and places in the period."""
        groups = self.scanned // self.period
        return jax.tree.map(lambda leaf: leaf.reshape(groups, self.period, *leaf.shape[1:]), tree)

    def _scan(self, apply: Apply[Block, Static], x: Array, extras: PyTree) -> tuple[Array, tuple[PyTree, ...]]:
        graph, state = nnx.split(self.blocks)

        def body(x: Array, group: tuple[PyTree, PyTree]) -> tuple[Array, tuple[PyTree, ...]]:
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
        self, apply: Apply[Block, Static], write: Write[Static], x: Array, repeated: tuple[PyTree, ...]
    ) -> tuple[Array, tuple[PyTree, ...]]:
        def change(block: Block, x: Array, static: Static, whole: PyTree, group: Array | None) -> tuple[Array, PyTree]:
            layer = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, group, 1, keepdims=False), whole)
            x, output = apply(block, x, static, layer)
            return x, write(whole, static, output, group)

        return self._scan_update(change, x, repeated)

    def _scan_update(
        self, change: Change[Block, Static], x: Array, repeated: tuple[PyTree, ...]
    ) -> tuple[Array, tuple[PyTree, ...]]:
        graph, state = nnx.split(self.blocks)

        def body(carry: tuple[Array, tuple[PyTree, ...]], scanned: tuple[PyTree, Array]) -> tuple[PyTree, None]:
            (x, kept), (group_state, group) = carry, scanned
            new = []
            for i, whole in enumerate(kept):
                block = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], group_state))
                x, changed = change(block, x, self.statics[i], whole, group)
                new.append(changed)
            return (x, tuple(new)), None

        groups = jnp.arange(self.scanned // self.period)
        return jax.lax.scan(body, (x, repeated), (self._grouped(state), groups))[0]

    def _run(
        self, apply: Apply[Block, Static], block: Block, x: Array, static: Static, extra: PyTree, *, in_loop: bool
    ) -> tuple[Array, PyTree]:
        if self.remat == "none":
            return apply(block, x, static, extra)
        graph, state = nnx.split(block)

        def call(state: PyTree, x: Array, extra: PyTree) -> tuple[Array, PyTree]:
            return apply(nnx.merge(graph, state), x, static, extra)

        return rematerialised(call, self.remat, in_loop=in_loop)(state, x, extra)


def _stacked(make_block: Callable[[nnx.Rngs], Block], keys: Array) -> Block:
    """Create one module that holds the stacked parameters of a block per key."""
    state = jax.vmap(lambda key: nnx.split(make_block(rngs_of(LayerKeys(key))))[1])(keys)
    graph = nnx.split(nnx.eval_shape(lambda: make_block(rngs_of(LayerKeys(0)))))[0]
    return nnx.merge(graph, jax.tree.map(_with_layers, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))


def _with_layers(variable: nnx.Variable) -> nnx.Variable:
    axes = variable.get_metadata().get("axes")
    return variable if axes is None else variable.replace(axes=(LAYERS, *axes))


def _repetition(statics: Sequence[Hashable]) -> tuple[int, int]:
    """Return the period for which XLA compiles the fewest blocks, and how many layers, from the first on, are scanned.

    XLA compiles one period and each layer outside the scan.
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
    """Split a random key into one key for each layer. Return None if ``key`` is None."""
    return None if key is None else jax.random.split(key, depth)


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Apply dropout (Srivastava et al. 2014): zero a share ``rate`` of the values and scale up the rest.

    Without a key it is the identity.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


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
