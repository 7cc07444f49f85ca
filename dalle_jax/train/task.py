"""The interface between the trainer and a task: protocols and types that both sides use."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key, PyTree
from dalle_jax.storage import Place

M = TypeVar("M")
"""The module that a task trains."""

Sampled = TypeVar("Sampled", contravariant=True)
"""The module that a task samples."""

Frozen: TypeAlias = Mapping[str, nnx.Module]
"""Networks that losses use and that are not trained, by name, such as "image_tokenizer" or "clip"."""

Batch: TypeAlias = dict[str, Array]
"""Arrays by name; the first dimension of each is the batch."""

Seed: TypeAlias = tuple[int, ...]
"""A seed for ``numpy.random.default_rng``."""

MetricSums: TypeAlias = dict[str, tuple[Array, Array]]
"""(sum, weight) by metric. Sums add up over microbatches, devices, steps and hosts, and are divided once.

A sum is a scalar, or a histogram: an array [K] that counts K outcomes, of which usage and perplexity are written.
"""

LossAndSums: TypeAlias = tuple[Float[Array, ""], MetricSums]

Loss: TypeAlias = Callable[[M, Frozen, Batch, Key[Array, ""], Array], LossAndSums]
"""``loss(module, frozen, batch, key, step)``; it may set variables of the module, except parameters."""


@dataclass(frozen=True)
class Constraint:
    """A projection of parameters, applied after every update of any optimizer.

    ``on`` is an nnx filter over parameters. ``project`` maps a value to the nearest allowed one, of the same shape.
    """

    on: nnx.filterlib.Filter
    project: Callable[[Array], Array]


@dataclass(frozen=True)
class CachedEmbeddings(Generic[M]):
    """Microbatches in two passes for a loss over all pairs of a batch (GradCache, arXiv 2101.06983).

    ``embed(module, frozen, batch, key, step)`` returns a tree of float arrays with a row per example. It must not set
    variables, and rows must not depend on each other. ``loss(module, embeddings, batch, key, step)`` returns the loss
    and the metrics of the whole batch. ``embed`` followed by this ``loss`` is the objective's ``loss``.
    """

    embed: Callable[[M, Frozen, Batch, Key[Array, ""], Array], PyTree]
    loss: Callable[[M, Any, Batch, Key[Array, ""], Array], LossAndSums]


@dataclass(frozen=True)
class UpdateOnce(Generic[M]):
    """Microbatches for a mean over examples with variables that follow the whole batch, such as a codebook.

    ``loss(module, frozen, batch, key, step)`` returns the loss, its metrics, and a tree of arrays with a row per
    example. It must not set variables. ``update(module, rows, key)`` takes the rows of the whole batch and sets
    variables. ``loss`` followed by ``update`` is the objective's ``loss``.
    """

    loss: Callable[[M, Frozen, Batch, Key[Array, ""], Array], tuple[Float[Array, ""], MetricSums, PyTree]]
    update: Callable[[M, Any, Key[Array, ""]], None]


@dataclass(frozen=True)
class WholeBatchOnly:
    """A mark of losses that need the whole batch at once. ``why`` is the reason, for the error message."""

    why: str


Microbatches: TypeAlias = CachedEmbeddings[M] | UpdateOnce[M] | WholeBatchOnly


@dataclass(frozen=True)
class Objective(Generic[M]):
    """A loss and the parameters that it trains.

    ``trains`` is an nnx filter over parameters (``nnx.Param`` for all of them). The objectives of a task are stepped in
    order, each with its own optimizer state. ``constraints`` apply to parameters that are trained. ``microbatches``
    says how the loss is computed in microbatches; None means that it is a mean over examples. Before step ``starts``
    nothing of the loss is computed: its gradients are 0, and its metrics are left out.
    """

    name: str
    trains: nnx.filterlib.Filter
    loss: Loss[M]
    constraints: tuple[Constraint, ...] = ()
    microbatches: Microbatches[M] | None = None
    starts: int = 0


@runtime_checkable
class Task(Protocol[M]):
    """A model, its losses and its batches. It does not depend on optimizers, meshes, jit or checkpoints."""

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Convert raw examples to the arrays of a batch, on the host.

        ``seeds`` has one seed per example, so augmentation does not depend on the host that prepares it. It is None for
        evaluation, which does not augment.
        """
        ...

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes that ``prepare`` returns for ``batch_size`` examples."""
        ...

    def init(self, rngs: nnx.Rngs) -> M:
        """Return the module to train, newly initialised."""
        ...

    def frozen(self) -> Frozen:
        """Return the networks that losses use and that are not trained, by name.

        The mapping is empty if there are none.
        """
        ...

    def objectives(self) -> tuple[Objective[M], ...]:
        """Return the objectives in the order in which they are stepped."""
        ...

    def evaluate(self, module: M, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return metrics on a held-out batch; a pure function.

        A padded batch has the bool arrays ``COUNTED`` and ``CANDIDATE`` (arrays.py). The sums are then over counted
        examples only, so that padding does not change a metric.
        """
        ...

    def images(self, module: M, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> Float[Array, "n H W 3"] | None:
        """Return images that show the model's progress, with values in [0, 1], or None for a task without images.

        It is a pure function of its arguments.
        """
        ...

    def model_files(self) -> dict[str, bytes]:
        """Return small files that make a checkpoint usable alone: ``model.gin`` and the text tokenizer's files."""
        ...


@runtime_checkable
class MeasuresData(Protocol):
    """A task whose new module holds statistics of the training data, measured before the first step."""

    @property
    def measured_examples(self) -> int:
        """The number of training examples to measure, the first ones of the run."""
        ...

    def measurements(self, frozen: Frozen, batch: Batch) -> dict[str, Array]:
        """Return arrays by name with a row for each example of a batch; a pure function."""
        ...

    def with_measurements(self, found: Mapping[str, np.ndarray]) -> Task:
        """Return the task whose ``init`` uses the rows of all examples, in float32."""
        ...


@runtime_checkable
class ExtendsTrained(Protocol[M]):
    """A task whose module may start as a smaller trained one, such as a network of fewer input channels."""

    def smaller(self, folder: Place) -> Task[M] | None:
        """Return the task of the smaller module if ``folder`` holds one, and None if it holds this task's own.

        Raise ``UserError`` if it holds neither.
        """
        ...

    def extended(self, module: M) -> M:
        """Return this task's module, made of the smaller one's, with the same outputs."""
        ...


class RolloutInputs(NamedTuple):
    """The prompts of a rollout, one for each example, and the arrays that its function takes."""

    prompts: tuple[str, ...]
    arrays: dict[str, np.ndarray]


class JudgedRollout(NamedTuple):
    """The batches of the steps that a rollout gives, and metrics of its samples as (sum, weight) by name."""

    batches: list[dict[str, np.ndarray]]
    sums: dict[str, tuple[float, float]]


@runtime_checkable
class TrainsOnSamples(Protocol[Sampled]):
    """A task that trains on samples of its own module, which are judged between steps (train/rollouts.py).

    A batch of the data gives the prompts of one rollout, and a rollout gives the batches of ``updates`` steps.
    """

    @property
    def updates(self) -> int:
        """The number of steps on the samples of one rollout."""
        ...

    def rollout_inputs(self, examples: ExampleBatch, seeds: Sequence[Seed]) -> RolloutInputs:
        """Return the prompts of a rollout and its arrays, which have a row for each example."""
        ...

    def rollout(self, module: Sampled, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> dict[str, Array]:
        """Sample from the module; a pure function. Each array that it returns has a row for each prompt."""
        ...

    def judge(self, prompts: Sequence[str], samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return rewards by name for the samples of some prompts, on the host; each has a row for each prompt.

        Raise ``UserError`` for rewards that cannot be trained on.
        """
        ...

    def training_batches(self, samples: Mapping[str, np.ndarray], rewards: Mapping[str, np.ndarray]) -> JudgedRollout:
        """Return the batches of the rollout's steps, given the samples and rewards of all prompts."""
        ...

    def training_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of a step's batch for ``batch_size`` prompts."""
        ...


def step_spec(task: Task, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of the batch that a training step takes for ``batch_size`` examples of the data."""
    return task.training_spec(batch_size) if isinstance(task, TrainsOnSamples) else task.batch_spec(batch_size)


@runtime_checkable
class ReadsCaptions(Protocol):
    """A task that truncates captions to a length, and counts the captions that it truncated."""

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of captions this process truncated, the number it read, and a text that names the limit."""
        ...


@runtime_checkable
class Batches(Protocol):
    """A source of raw examples. A batch is a pure function of the step, so resuming needs no data position."""

    @property
    def batch_size(self) -> int:
        """The number of examples in one batch, summed over all hosts."""
        ...

    def batch(self, step: int, rows: Sequence[int]) -> ExampleBatch:
        """Return the examples at positions ``rows`` of the batch of a step. Equal calls return equal examples."""
        ...

    def evaluation_batches(self, rows: Sequence[int]) -> Iterable[ExampleBatch]:
        """Yield the examples at positions ``rows`` of each held-out batch, in a fixed order; all batches have one size.

        If the last batch is padded, every batch has the bool arrays ``COUNTED`` and ``CANDIDATE`` (arrays.py).
        """
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes when any batch changes.

        Checkpoints store it, and a resumed run compares it with the hash of its own data.
        """
        ...


@runtime_checkable
class Suites(Protocol):
    """Evaluation suites of a model in a run's folder, which holds a checkpoint of its EMA weights."""

    def __call__(self, folder: Place, log: Callable[[str], None]) -> dict[str, float]:
        """Return the figures of all suites by name, the same on every host. All hosts call it together."""
        ...


@runtime_checkable
class ReportsRecords(Protocol):
    """Batches that report unusable records. All hosts call each method at the same steps."""

    def stop_together(self) -> None:
        """Raise the same UserError on all hosts if too many records were bad, so that no host waits for another."""
        ...

    def report(self) -> tuple[str, bytes, str] | None:
        """Return the name and the content of a report file for the run folder, and a summary of one line.

        Return None if there is nothing to report.
        """
        ...
