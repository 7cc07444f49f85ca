"""Loss and gradients of a batch in microbatches, equal to those of the whole batch (to rounding) or refused.

One microbatch at a time is in memory with its activations. An objective says how its loss depends on the batch
(``Objective.microbatches``): a mean over examples is averaged, embeddings are cached over two passes, variables that
follow the batch are updated once.

Random numbers are drawn for each microbatch. They differ from those of the whole batch; their distribution does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding

from dalle_jax.arrays import Array
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


class Gradients(NamedTuple):
    """Loss and gradients of a batch, the variables that are not parameters after it, and its MetricSums."""

    loss: Array
    grads: Arrays
    others: Arrays
    sums: MetricSums


@dataclass(frozen=True)
class Bound:
    """An objective with all that its loss reads and nothing differentiates. Modules live only inside its methods.

    ``frozen`` builds the frozen networks; ``params`` holds at least the parameters that the objective does not train.
    """

    objective: Objective
    blueprint: ModuleSpec
    frozen: Callable[[], Frozen]
    params: Arrays
    step: Array

    def loss(
        self, trained: Arrays, others: Arrays, batch: Batch, key: Array
    ) -> tuple[Array, tuple[MetricSums, Arrays]]:
        """Return ``(scalar, (MetricSums, others))`` of the whole batch at once."""
        module = self.module(trained, others)
        value, sums = self.objective.loss(module, self.frozen(), batch, key, self.step)
        return value, (metrics.as_float32(sums), self.blueprint.split(module)[1])

    def module(self, trained: Arrays, others: Arrays) -> nnx.Module:
        """Build the module that is trained."""
        return self.blueprint.merge(self.params | trained, others)

    def check_unchanged(self, module: nnx.Module, others: Arrays) -> None:
        """Raise UserError if a microbatch changed variables, which would then change once for each of them."""
        changed = self.blueprint.changed(module, others)
        if changed:
            raise UserError(
                f"trainer.accumulate: expected 1, since the loss of the objective {self.objective.name!r} changes "
                f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}, which would follow each microbatch "
                "and not the batch"
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
    others: Arrays,
    batch: Batch,
    parts: int,
    key: Array,
    shardings: Mapping[str, NamedSharding],
) -> Gradients:
    """Find loss and gradients of a batch in ``parts`` microbatches; ``shardings`` are those of the parameters."""
    if parts == 1:
        with_gradients = jax.value_and_grad(bound.loss, has_aux=True)
        (value, (sums, others)), grads = with_gradients(trained, others, batch, jax.random.fold_in(key, 0))
        return Gradients(value.astype(jnp.float32), grads, others, sums)
    over = _Microbatches(bound, trained, others, batch, parts, key, shardings)
    how = bound.objective.microbatches
    if how is None:
        return over.averaged()
    if isinstance(how, UpdateOnce):
        return over.updated_once(how)
    if isinstance(how, CachedEmbeddings):
        return over.embedded(how)
    raise ValueError(f"objective {bound.objective.name!r}: {how!r} cannot be accumulated over {parts} microbatches")


@dataclass(frozen=True)
class _Microbatches:
    """The passes over the microbatches of one batch."""

    bound: Bound
    trained: Arrays
    others: Arrays
    batch: Batch
    parts: int
    key: Array
    shardings: Mapping[str, NamedSharding]

    def averaged(self) -> Gradients:
        """Average a loss that is a mean over examples and changes no variable."""

        def loss(module: nnx.Module, batch: Batch, key: Array) -> tuple[Array, MetricSums, Any]:
            value, sums = self.bound.objective.loss(module, self.bound.frozen(), batch, key, self.bound.step)
            return value, metrics.as_float32(sums), ()

        return self._average(loss)[0]

    def updated_once(self, how: UpdateOnce) -> Gradients:
        """Average the loss, then update variables once from what all microbatches have shown."""

        def loss(module: nnx.Module, batch: Batch, key: Array) -> tuple[Array, MetricSums, Any]:
            value, sums, seen = how.loss(module, self.bound.frozen(), batch, key, self.bound.step)
            return value, metrics.as_float32(sums), seen

        found, seen = self._average(loss)
        module = self.bound.module(self.trained, self.others)
        how.update(module, jax.tree.map(join, seen), self._key(0))
        return found._replace(others=self.bound.blueprint.split(module)[1])

    def embedded(self, how: CachedEmbeddings) -> Gradients:
        """Embed all microbatches, differentiate the loss at the embeddings, and send that back through each of them."""
        batches = split(self.batch, self.parts)

        def embed(trained: Arrays, index: Array) -> Any:
            module = self.bound.module(trained, self.others)
            batch = {name: rows[index] for name, rows in batches.items()}
            embeddings = how.embed(module, self.bound.frozen(), batch, self._key(index), self.bound.step)
            self.bound.check_unchanged(module, self.others)
            return embeddings

        def loss(trained: Arrays, embeddings: Any) -> tuple[Array, tuple[MetricSums, Arrays]]:
            module = self.bound.module(trained, self.others)
            value, sums = how.loss(module, embeddings, self.batch, self._key(0), self.bound.step)
            return value, (metrics.as_float32(sums), self.bound.blueprint.split(module)[1])

        indices = jnp.arange(self.parts)
        _, cached = jax.lax.scan(lambda _, index: (None, embed(self.trained, index)), None, indices)
        with_gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (value, (sums, others)), found = with_gradients(self.trained, jax.tree.map(join, cached))
        direct, of_embeddings = found[0], split(found[1], self.parts)

        def body(grads: Arrays, index: Array) -> tuple[Arrays, None]:
            _, back = jax.vjp(lambda trained: embed(trained, index), self.trained)
            (more,) = back(jax.tree.map(lambda rows: rows[index], of_embeddings))
            return jax.tree.map(lambda total, one: total + one.astype(total.dtype), grads, more), None

        start = jax.tree.map(lambda zeros, one: zeros + one.astype(zeros.dtype), self._zeros(), direct)
        grads, _ = jax.lax.scan(body, start, indices)
        return Gradients(value.astype(jnp.float32), grads, others, sums)

    def _average(self, loss: Callable[..., tuple[Array, MetricSums, Any]]) -> tuple[Gradients, Any]:
        """Scan ``loss(module, batch, key) -> (scalar, MetricSums, seen)``; ``seen`` is returned as [parts B/parts
        ...]."""
        batches = split(self.batch, self.parts)

        def of_one(trained: Arrays, batch: Batch, key: Array) -> tuple[Array, tuple[MetricSums, Any]]:
            module = self.bound.module(trained, self.others)
            value, sums, seen = loss(module, batch, key)
            self.bound.check_unchanged(module, self.others)
            return value, (sums, seen)

        with_gradients = jax.value_and_grad(of_one, has_aux=True)

        def body(carry: tuple[Array, Arrays], index: Array) -> tuple[tuple[Array, Arrays], tuple[MetricSums, Any]]:
            total, grads = carry
            batch = {name: rows[index] for name, rows in batches.items()}
            (value, found), more = with_gradients(self.trained, batch, self._key(index))
            grads = jax.tree.map(lambda a, b: a + b.astype(a.dtype) / self.parts, grads, more)
            return (total + value.astype(jnp.float32) / self.parts, grads), found

        start = jnp.zeros(()), self._zeros()
        (total, grads), (sums, seen) = jax.lax.scan(body, start, jnp.arange(self.parts))
        return Gradients(total, grads, self.others, jax.tree.map(lambda values: values.sum(0), sums)), seen

    def _key(self, index: Array | int) -> Array:
        """Return the key of one microbatch, the same in every pass. That of the first is also the whole batch's."""
        return jax.random.fold_in(self.key, index)

    def _zeros(self) -> Arrays:
        return {name: _zeros(value, self.shardings[name]) for name, value in self.trained.items()}


def split(batch: Any, parts: int) -> Any:
    """Split arrays [B ...] into [parts B/parts ...]. Rows are dealt in turn, so each device keeps the rows it has."""

    def one(rows: Array) -> Array:
        if rows.shape[0] % parts:
            below = rows.shape[0] // parts * parts
            nearest = f"{below} or {below + parts}" if below else f"{parts}"
            raise UserError(f"accumulate={parts} does not divide the batch of {rows.shape[0]}; {nearest} would do")
        check_microbatch(rows.shape[0], parts)
        dealt = rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(dealt, None, BATCH, *(None,) * (rows.ndim - 1))

    return jax.tree.map(one, batch)


def join(dealt: Array) -> Array:
    """Join [parts B/parts ...] to [B ...] in the order of the batch: the inverse of ``split``."""
    rows = dealt.swapaxes(0, 1).reshape(-1, *dealt.shape[2:])
    return constrain(rows, BATCH, *(None,) * (rows.ndim - 1))


def _zeros(like: Array, sharding: NamedSharding) -> Array:
    """Make float32 zeros that lie as the parameter does; the compiler may otherwise replicate an accumulator."""
    zeros = jnp.zeros(like.shape, jnp.float32)
    return zeros if sharding.mesh.size == 1 else jax.lax.with_sharding_constraint(zeros, sharding)
