"""Gradients computed in microbatches, equal to the gradient of the whole batch up to rounding.

Only the activations of one microbatch are in memory at a time. A loss that cannot be computed in microbatches is
refused. ``Objective.microbatches`` says how a loss depends on the batch: a mean over examples is averaged, embeddings
are cached over two passes, and variables that follow the batch are updated once.

Random numbers are drawn per microbatch. The numbers differ from those that the whole batch would draw, but have the
same distribution.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from dalle_jax.arrays import Array, PyTree
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.layout import check_microbatch, constrain
from dalle_jax.train import metrics
from dalle_jax.train.state import Arrays, ModuleSpec
from dalle_jax.train.task import (
    Batch,
    CachedEmbeddings,
    Frozen,
    MetricSums,
    Objective,
    Task,
    UpdateOnce,
    WholeBatchOnly,
)

MAX_DIVISORS = 4
"""Largest number of values of ``accumulate`` that an error proposes."""

PartLoss: TypeAlias = Callable[[nnx.Module, Batch, Array], tuple[Array, MetricSums, PyTree]]
"""``loss(module, batch, key) -> (scalar, MetricSums, seen)`` of one microbatch.

``seen`` is a tree of arrays with a row for each example.
"""


class Gradients(NamedTuple):
    """The loss, gradients and metric sums of a batch. ``non_params`` has the new values of the other variables."""

    loss: Array
    grads: Arrays
    non_params: Arrays
    sums: MetricSums


@dataclass(frozen=True)
class Bound:
    """An objective with the inputs of its loss that are not differentiated. Modules exist only inside its methods.

    ``frozen`` builds the frozen networks. ``params`` has at least the parameters that the objective does not train.
    """

    objective: Objective
    module_spec: ModuleSpec
    frozen: Callable[[], Frozen]
    params: Arrays
    step: Array

    def loss(
        self, trained: Arrays, non_params: Arrays, batch: Batch, key: Array
    ) -> tuple[Array, tuple[MetricSums, Arrays]]:
        """Return ``(scalar, (MetricSums, non_params))`` of the whole batch in one pass."""
        module = self.module(trained, non_params)
        value, sums = self.objective.loss(module, self.frozen(), batch, key, self.step)
        return value, (metrics.as_float32(sums), self.module_spec.split(module)[1])

    def module(self, trained: Arrays, non_params: Arrays) -> nnx.Module:
        """Build the module that is trained."""
        return self.module_spec.merge(self.params | trained, non_params)

    def check_unchanged(self, module: nnx.Module, non_params: Arrays) -> None:
        """Raise UserError if a microbatch changed variables, since they would change once per microbatch."""
        changed = self.module_spec.changed(module, non_params)
        if changed:
            raise UserError(
                f"trainer.accumulate: expected 1, since the loss of the objective {self.objective.name!r} changes "
                f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}, which would change once per "
                "microbatch instead of once per batch"
            )


def check_accumulate(task: Task, accumulate: int) -> None:
    """Raise UserError if an objective of the task cannot be accumulated over microbatches."""
    for objective in task.objectives():
        if accumulate > 1 and isinstance(objective.microbatches, WholeBatchOnly):
            raise UserError(
                f"trainer.accumulate: expected 1 for the objective {objective.name!r}, got {accumulate}: "
                f"{objective.microbatches.why}"
            )


def gradients(
    bound: Bound,
    trained: Arrays,
    non_params: Arrays,
    batch: Batch,
    parts: int,
    key: Array,
    shardings: Mapping[str, NamedSharding],
) -> Gradients:
    """Compute the loss and gradients of a batch in ``parts`` microbatches; ``shardings`` are of the parameters."""
    if parts == 1:
        with_gradients = jax.value_and_grad(bound.loss, has_aux=True)
        (value, (sums, non_params)), grads = with_gradients(trained, non_params, batch, jax.random.fold_in(key, 0))
        return Gradients(value.astype(jnp.float32), grads, non_params, sums)
    over = _Microbatches(bound, trained, non_params, batch, parts, key, shardings)
    how = bound.objective.microbatches
    if how is None:
        return over.averaged()
    if isinstance(how, UpdateOnce):
        return over.updated_once(how)
    if isinstance(how, CachedEmbeddings):
        return over.embedded(how)
    raise ValueError(f"objective {bound.objective.name!r}: expected one microbatch for {how!r}, got {parts}")


@dataclass(frozen=True)
class _Microbatches:
    """The passes over the microbatches of one batch."""

    bound: Bound
    trained: Arrays
    non_params: Arrays
    batch: Batch
    parts: int
    key: Array
    shardings: Mapping[str, NamedSharding]

    def averaged(self) -> Gradients:
        """Return the mean gradients of a loss that is a mean over examples and sets no variables."""

        def loss(module: nnx.Module, batch: Batch, key: Array) -> tuple[Array, MetricSums, PyTree]:
            value, sums = self.bound.objective.loss(module, self.bound.frozen(), batch, key, self.bound.step)
            return value, metrics.as_float32(sums), ()

        return self._average(loss)[0]

    def updated_once(self, how: UpdateOnce) -> Gradients:
        """Return the mean gradients, then update variables once from the rows of all microbatches."""

        def loss(module: nnx.Module, batch: Batch, key: Array) -> tuple[Array, MetricSums, PyTree]:
            value, sums, seen = how.loss(module, self.bound.frozen(), batch, key, self.bound.step)
            return value, metrics.as_float32(sums), seen

        found, seen = self._average(loss)
        module = self.bound.module(self.trained, self.non_params)
        how.update(module, jax.tree.map(join, seen), self._key(0))
        return found._replace(non_params=self.bound.module_spec.split(module)[1])

    def embedded(self, how: CachedEmbeddings) -> Gradients:
        """Embed all microbatches, differentiate the loss by the embeddings, then backpropagate each microbatch."""
        batches = split(self.batch, self.parts)

        def embed(trained: Arrays, index: Array) -> PyTree:
            module = self.bound.module(trained, self.non_params)
            batch = {name: rows[index] for name, rows in batches.items()}
            embeddings = how.embed(module, self.bound.frozen(), batch, self._key(index), self.bound.step)
            self.bound.check_unchanged(module, self.non_params)
            return embeddings

        def loss(trained: Arrays, embeddings: PyTree) -> tuple[Array, tuple[MetricSums, Arrays]]:
            module = self.bound.module(trained, self.non_params)
            value, sums = how.loss(module, embeddings, self.batch, self._key(0), self.bound.step)
            return value, (metrics.as_float32(sums), self.bound.module_spec.split(module)[1])

        indices = jnp.arange(self.parts)
        _, cached = jax.lax.scan(lambda _, index: (None, embed(self.trained, index)), None, indices)
        with_gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (value, (sums, non_params)), found = with_gradients(self.trained, jax.tree.map(join, cached))
        direct, of_embeddings = found[0], split(found[1], self.parts)

        def body(grads: Arrays, index: Array) -> tuple[Arrays, None]:
            _, back = jax.vjp(lambda trained: embed(trained, index), self.trained)
            (more,) = back(jax.tree.map(lambda rows: rows[index], of_embeddings))
            return jax.tree.map(lambda total, one: total + one.astype(total.dtype), grads, more), None

        start = jax.tree.map(lambda zeros, one: zeros + one.astype(zeros.dtype), self._zeros(), direct)
        grads, _ = jax.lax.scan(body, start, indices)
        return Gradients(value.astype(jnp.float32), grads, non_params, sums)

    def _average(self, loss: PartLoss) -> tuple[Gradients, PyTree]:
        """Average a loss over microbatches; also return ``seen`` of all of them, [parts B/parts ...]."""
        batches = split(self.batch, self.parts)

        def of_one(trained: Arrays, batch: Batch, key: Array) -> tuple[Array, tuple[MetricSums, PyTree]]:
            module = self.bound.module(trained, self.non_params)
            value, sums, seen = loss(module, batch, key)
            self.bound.check_unchanged(module, self.non_params)
            return value, (sums, seen)

        with_gradients = jax.value_and_grad(of_one, has_aux=True)

        def body(carry: tuple[Array, Arrays], index: Array) -> tuple[tuple[Array, Arrays], tuple[MetricSums, PyTree]]:
            total, grads = carry
            batch = {name: rows[index] for name, rows in batches.items()}
            (value, found), more = with_gradients(self.trained, batch, self._key(index))
            grads = jax.tree.map(lambda a, b: a + b.astype(a.dtype) / self.parts, grads, more)
            return (total + value.astype(jnp.float32) / self.parts, grads), found

        start = jnp.zeros(()), self._zeros()
        (total, grads), (sums, seen) = jax.lax.scan(body, start, jnp.arange(self.parts))
        return Gradients(total, grads, self.non_params, jax.tree.map(lambda values: values.sum(0), sums)), seen

    def _key(self, index: Array | int) -> Array:
        """Return the random key of a microbatch, the same in every pass.

        The loss of the whole batch uses the first key.
        """
        return jax.random.fold_in(self.key, index)

    def _zeros(self) -> Arrays:
        return {name: _zeros(value, self.shardings[name]) for name, value in self.trained.items()}


def split(batch: PyTree, parts: int) -> PyTree:
    """Split arrays [B ...] into [parts B/parts ...]; rows are interleaved, so that each device keeps its rows."""

    def one(rows: Array) -> Array:
        if rows.shape[0] % parts:
            size = rows.shape[0]
            below = size // parts * parts
            nearest = f"{below} or {below + parts}" if below else f"{parts}"
            divisors = [str(one) for one in range(1, size + 1) if size % one == 0]
            smaller = [one for one in divisors if int(one) < parts][-MAX_DIVISORS:]
            raise UserError(
                f"data.batch_size: expected a multiple of trainer.accumulate = {parts}, got {size}; set "
                f"data.batch_size to {nearest}, or trainer.accumulate to {' or '.join(smaller)}"
            )
        check_microbatch(rows.shape[0], parts)
        dealt = rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(dealt, None, BATCH, *(None,) * (rows.ndim - 1))

    return jax.tree.map(one, batch)


def join(dealt: Array) -> Array:
    """Invert ``split``: join [parts B/parts ...] to [B ...] in the order of the batch."""
    rows = dealt.swapaxes(0, 1).reshape(-1, *dealt.shape[2:])
    return constrain(rows, BATCH, *(None,) * (rows.ndim - 1))


def _zeros(like: Array, sharding: NamedSharding) -> Array:
    """Return float32 zeros with the parameter's sharding; the compiler may otherwise replicate an accumulator."""
    zeros = jnp.zeros(like.shape, jnp.float32)
    return zeros if sharding.mesh.size == 1 else jax.lax.with_sharding_constraint(zeros, sharding)
