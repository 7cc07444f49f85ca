"""What the trainer asks of a task and what it gets back: the only words that the trainer and the tasks share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key

Batch: TypeAlias = dict[str, Array]
"""Names to arrays whose first dimension is the batch."""

Seed: TypeAlias = tuple[int, ...]
"""What ``numpy.random.default_rng`` takes."""

MetricSums: TypeAlias = dict[str, tuple[Array, Array]]
"""Names to (sum, weight). They merge by adding, over microbatches, devices, steps and hosts, and are divided once."""

Frozen: TypeAlias = Mapping[str, nnx.Module]
"""Networks that losses read and nothing trains, by name, such as "image_tokenizer" or "clip"."""

Loss: TypeAlias = Callable[[Any, Frozen, Batch, Key[Array, ""], Array], tuple[Float[Array, ""], MetricSums]]
"""``loss(module, frozen, batch, key, step) -> (scalar, MetricSums)``; may update variables of the module but no
Param."""


@dataclass(frozen=True)
class Constraint:
    """A projection of parameters, which the trainer applies after every update and whatever the optimizer.

    ``on`` is an nnx filter over parameters. ``project`` maps a value to the nearest allowed one, of the same shape.
    """

    on: Any
    project: Callable[[Array], Array]


@dataclass(frozen=True)
class CachedEmbeddings:
    """Microbatches for a loss over all pairs of a batch, in two passes (GradCache, arXiv 2101.06983).

    ``embed(module, frozen, batch, key, step)`` returns a tree of float arrays with a row for each example. It must set
    no variable, and no row may depend on another. ``loss(module, embeddings, batch, key, step)`` returns the loss of
    the whole batch and its MetricSums. Together they are the objective's ``loss``.
    """

    embed: Callable[[Any, Frozen, Batch, Key[Array, ""], Array], Any]
    loss: Callable[[Any, Any, Batch, Key[Array, ""], Array], tuple[Float[Array, ""], MetricSums]]


@dataclass(frozen=True)
class UpdateOnce:
    """Microbatches for a mean over examples beside variables that follow the batch, such as a codebook.


    ``loss(module, frozen, batch, key, step)`` returns the loss, its MetricSums, and a tree of arrays with a row for
    each
    example; it must set no variable. ``update(module, rows, key)`` gets the rows of the whole batch and sets variables.
    Together they are the objective's ``loss``.
    """

    loss: Callable[[Any, Frozen, Batch, Key[Array, ""], Array], tuple[Float[Array, ""], MetricSums, Any]]
    update: Callable[[Any, Any, Key[Array, ""]], None]


@dataclass(frozen=True)
class WholeBatchOnly:
    """No microbatches: they would change the loss. ``why`` is the reason, as the user reads it."""

    why: str


Microbatches: TypeAlias = CachedEmbeddings | UpdateOnce | WholeBatchOnly


@dataclass(frozen=True)
class Objective:
    """One loss and the parameters that it moves.

    ``trains`` is an nnx filter over parameters (``nnx.Param`` for all of them). Objectives of one task are stepped in
    order, each with its own optimizer state. ``constraints`` hold for those of their parameters that are trained.
    ``microbatches`` says how the loss is found in parts of a batch; None is for a mean over examples.
    """

    name: str
    trains: Any
    loss: Loss
    constraints: tuple[Constraint, ...] = ()
    microbatches: Microbatches | None = None


@runtime_checkable
class Task(Protocol):
    """What is trained. Knows its model, its loss and its batch; nothing of optimizers, meshes, jit or checkpoints."""

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """On the host: raw examples (``image`` uint8 [H W 3], ``caption`` str) to the arrays of one batch.

        ``seeds`` has one for each example, so that what is random of it does not depend on which host prepares it;
        None for evaluation, which augments nothing.
        """
        ...

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Names to shape and dtype of what ``prepare`` returns for that many examples."""
        ...

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """The module to train, newly initialised."""
        ...

    def frozen(self) -> Frozen:
        """Return the networks that losses read and nothing trains, by name; an empty mapping if there are none."""
        ...

    def objectives(self) -> tuple[Objective, ...]:
        """What to minimise, in the order in which it is stepped."""
        ...

    def evaluate(self, module: Any, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Figures on held-out batches, for the model and for its average; a pure function.

        A batch that was filled up to its size has ``COUNTED`` and ``CANDIDATE`` (arrays.py). The sums are then over the
        counted rows alone, so that the figure is the mean over the held-out examples.
        """
        ...

    def images(self, module: Any, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"] | None:
        """What to draw every so often, values in [0, 1], or None for a task that draws nothing; a pure function."""
        ...

    def model_files(self) -> dict[str, bytes]:
        """Small files that make a checkpoint usable alone: ``model.gin`` and the text tokenizer's."""
        ...


@runtime_checkable
class ReadsCaptions(Protocol):
    """A task that cuts captions to a length and counts them."""

    def cut_captions(self) -> tuple[int, int, str]:
        """Return how many captions this process cut, how many it read, and the length that they were cut to."""
        ...


@runtime_checkable
class Batches(Protocol):
    """Where raw examples come from. A batch is a pure function of the step, so there is no position to lose."""

    @property
    def batch_size(self) -> int:
        """Examples in a batch, over all hosts."""
        ...

    def batch(self, step: int, rows: Sequence[int]) -> ExampleBatch:
        """Some rows of the batch of one step, one list entry each; the same whenever they are asked for."""
        ...

    def evaluation_batches(self, rows: Sequence[int]) -> Iterable[ExampleBatch]:
        """Yield those rows of every batch of the held-out examples, finite and always the same; batches of one size.

        Where the last batch is filled up, every batch has bools by the names ``COUNTED`` and ``CANDIDATE`` (arrays.py).
        """
        ...

    def fingerprint(self) -> str:
        """Changes whenever any batch would: saved with checkpoints and compared on resume."""
        ...


@runtime_checkable
class Accountable(Protocol):
    """Batches that account for records which cannot be used. All hosts call both methods at the same steps."""

    def stop_together(self) -> None:
        """Raises the same UserError on all hosts where too many were bad, so that none waits for another."""
        ...

    def told(self) -> tuple[str, bytes, str] | None:
        """A file for the run's folder, its bytes, and the same in a line; None where there is nothing to tell."""
        ...
