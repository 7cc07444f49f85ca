"""Rollouts: the batches of a task that trains on samples of its own module, drawn and judged between steps."""

import io
import time
from collections import defaultdict, deque
from collections.abc import Mapping

import jax
import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.state import State
from dalle_jax.train.task import Batch, Batches, TrainsOnSamples
from dalle_jax.train.trainer import Trainer


class Rollouts:
    """The batches of consecutive steps. Each rollout is a pure function of the seed, its number and the model.

    All processes call ``next`` together. Samples are drawn on all devices; each process judges those of its own rows.
    """

    def __init__(self, task: TrainsOnSamples, data: Batches, layout: Layout, seed: int):
        self._task, self._data, self._layout, self._seed = task, data, layout, seed
        self._rows = layout.local_rows(data.batch_size)
        self._left: deque[dict[str, np.ndarray]] = deque()
        self._sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self._count, self._drawing, self._judging = 0, 0.0, 0.0
        self._compiled = False

    @property
    def used_up(self) -> bool:
        """True if the next step needs a new rollout, so that a run can be saved and resumed here."""
        return not self._left

    def next(self, compiled: CompiledTask, state: State, step: int) -> Batch:
        """Return the batch of ``step`` on the devices, after a new rollout if the last one is used up."""
        if self.used_up:
            jax.block_until_ready(state.counted.step)  # so that the step's time is not that of the rollout
            self._left.extend(self._judged(compiled, state, step // self._task.updates))
        rows = self._left.popleft()
        count = len(next(iter(rows.values())))
        own = self._layout.local_rows(count)
        return self._layout.put_batch({name: values[own] for name, values in rows.items()}, count)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the rollouts since the last call by full name, and forget them."""
        found = {f"train/{name}": total / weight for name, (total, weight) in self._sums.items() if weight}
        if self._count:
            found["speed/rollout_seconds"] = self._drawing / self._count
            found["speed/judging_seconds"] = self._judging / self._count
            found["speed/judging_per_rollout"] = self._judging / max(self._drawing, 1e-9)
        self._sums.clear()
        self._count, self._drawing, self._judging = 0, 0.0, 0.0
        return found

    def _judged(self, compiled: CompiledTask, state: State, index: int) -> list[dict[str, np.ndarray]]:
        """Draw and judge a rollout; return the batches of its steps."""
        rows = self._rows.tolist()
        seeds = [(self._seed, index, row) for row in rows]
        began = time.monotonic()
        prompts, arrays = self._task.rollout_inputs(self._data.batch(index, rows), seeds)
        batch = self._layout.put_batch(arrays, self._data.batch_size)
        samples = {name: np.asarray(one) for name, one in compiled.rollout(state, batch, index).items()}
        drawn = time.monotonic()
        own = {name: values[self._rows] for name, values in samples.items()}
        rewards = _gather(hosts.call_and_share_errors(lambda: self._task.judge(prompts, own)), self._rows)
        found = self._task.training_batches(samples, rewards)
        for name, (total, weight) in found.sums.items():
            before = self._sums[name]
            self._sums[name] = before[0] + total, before[1] + weight
        if self._compiled:
            self._count += 1
            self._drawing += drawn - began
            self._judging += time.monotonic() - drawn
        self._compiled = True  # by the first rollout, whose time is left out
        return found.batches


def check_updates(task: TrainsOnSamples, trainer: Trainer, batch_size: int) -> None:
    """Raise ``UserError`` if a rollout of ``batch_size`` prompts has no batch for each of its steps.

    Also raise it if a run would end or be saved within the steps of one rollout, where it cannot resume.
    """
    task.training_spec(batch_size)
    for name, steps in (("steps", trainer.steps), ("save_every", trainer.save_every)):
        if steps is not None and steps % task.updates:
            raise UserError(
                f"trainer.{name}: expected a multiple of task.updates, {task.updates}, because a run resumes at a new "
                f"rollout, got {steps}"
            )


def _gather(rewards: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rewards of all processes in the order of their rows."""
    file = io.BytesIO()
    for array in (rows, np.stack(list(rewards.values()), axis=1)):
        np.save(file, array)
    found = [(np.load(one), np.load(one)) for one in map(io.BytesIO, hosts.gather(file.getvalue()))]
    first = np.unique(np.concatenate([rows for rows, _ in found]), return_index=True)[1]
    values = np.concatenate([values for _, values in found])[first]  # [P n ...]
    return {name: values[:, index] for index, name in enumerate(rewards)}
