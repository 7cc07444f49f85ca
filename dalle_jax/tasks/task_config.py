"""The protocol of a task's config, which opens the task that the trainer trains."""

from typing import Protocol, runtime_checkable

import jax

from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.task import Task


@runtime_checkable
class OpenedTask(Task, Protocol):
    """A task with its frozen networks and its text tokenizer loaded and checked."""

    @property
    def config(self) -> "TaskConfig":
        """The resolved config, which also names networks that the data name and the config file does not."""
        ...


@runtime_checkable
class TaskConfig(Protocol):
    """A frozen dataclass of settings: it holds no state and does no I/O until it is opened."""

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        ...

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> OpenedTask:
        """Load the frozen networks and the text tokenizer, and check that they fit the model.

        ``layout`` is the layout of the run. ``manifest`` describes data of precomputed codes or embeddings, and is None
        for other data. Raise ``UserError`` if a file is missing or does not fit, or if the task cannot be trained on
        this data.
        """
        ...

    def open_for_plan(self) -> OpenedTask:
        """Open the task for the command ``plan``, which only compiles its step.

        A text tokenizer whose file does not exist is neither loaded nor checked.
        """
        ...
