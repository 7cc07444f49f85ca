"""The one trainer: whatever the task, the same loop of feed, step, figures, evaluation, images and checkpoints."""

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.reduction import ReduceDtype
from dalle_jax.storage import Place
from dalle_jax.train import metrics, prefetch
from dalle_jax.train.checkpoints.checkpoints import Checkpoints, Meta
from dalle_jax.train.checkpoints.save_weights import with_weights
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.monitor import detectors, goodput
from dalle_jax.train.monitor.alerts import Watch
from dalle_jax.train.monitor.monitor import Monitor
from dalle_jax.train.monitor.profiler import Profiler, Steps
from dalle_jax.train.monitor.watchdog import Phase, Watchdog
from dalle_jax.train.optim import optimizers, schedules, weight_decay
from dalle_jax.train.optim.ema import Ema
from dalle_jax.train.optim.gradient_spikes import SkipSpikes
from dalle_jax.train.optim.trainable import Trainable, TrainAll
from dalle_jax.train.output import sample_sheet
from dalle_jax.train.output.upload import UploadBuffer
from dalle_jax.train.output.writers import METRICS_FILE, Progress, Writers, read_lines, unwritable
from dalle_jax.train.signals import Interrupt, command_to_go_on
from dalle_jax.train.state import State
from dalle_jax.train.task import Accountable, Batches, MetricSums, ReadsCaptions, Task


@dataclass(frozen=True)
class Trainer:
    """How long and how. The ``_every`` are in steps and None is never; a checkpoint is always kept at the end.

    The newest ``keep`` checkpoints stay, and for good those whose step ``keep_every`` divides. ``decayed`` says which
    parameters the optimizer's weight decay reaches. ``accumulate`` is the number of microbatches of a batch: they give
    the gradients of the whole batch or are refused (train/microbatches.py). ``reduce_dtype`` is that in which gradients
    are summed over devices: parallel/reduction.py. After ``stall_seconds`` in which no step finishes the process ends
    (train/monitor/watchdog.py); None is never. ``initial`` is the folder of a trained or imported model whose averaged
    weights a new run begins with (fine-tuning); one that goes on has its own. ``trained`` says which parameters
    are trained; the others stay.
    """

    steps: int
    schedule: schedules.Schedule
    optimizer: optimizers.Optimizer = field(default_factory=optimizers.AdamW)
    decayed: weight_decay.WeightDecayMask = field(default_factory=weight_decay.DecayMatrices)
    trained: Trainable = field(default_factory=TrainAll)
    ema: Ema | None = None
    seed: int = 0
    accumulate: int = 1
    reduce_dtype: ReduceDtype = "float32"
    clip_norm: float | None = None
    log_every: int = 50
    evaluate_every: int | None = None
    images_every: int | None = None
    save_every: int | None = None
    keep: int = 2
    keep_every: int | None = None
    abort_after_skips: int = 20
    spikes: SkipSpikes | None = None
    stall_seconds: float | None = 600.0
    initial: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "keep", "abort_after_skips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.stall_seconds is not None and self.stall_seconds <= 0:
            raise ValueError(f"stall_seconds: expected more than 0, or None, got {self.stall_seconds}")
        kept, saved = self.keep_every, self.save_every
        if kept is not None and (kept < 1 or not saved or kept % saved):
            raise ValueError(f"keep_every: expected a multiple of save_every={self.save_every}, got {self.keep_every}")


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: its step, its newest figures by name, whether it was interrupted, and the seconds it took.

    ``skipped`` counts the updates that were not finite, ``parameters`` the model's numbers, trained or not.
    """

    step: int
    metrics: dict[str, float]
    interrupted: bool
    seconds: float
    skipped: int
    parameters: int


def train(
    task: Task,
    data: Batches,
    trainer: Trainer,
    layout: Layout,
    out: str | Place,
    config_text: str,
    profile: Steps | None = None,
) -> TrainResult:
    """Trains to ``trainer.steps``, going on from the newest checkpoint in ``out`` if there is one.

    ``profile`` are steps to trace (train/monitor/profiler.py). Raises UserError for a folder that cannot be written, a
    checkpoint of another model, data or seed, and a run that has diverged.
    """
    with contextlib.ExitStack() as opened:
        return Run(task, data, trainer, layout, storage.place(out), config_text, opened, profile).go()


class Run:
    """One run from its folder being opened to its last checkpoint; what it opens is closed with ``opened``."""

    def __init__(
        self,
        task: Task,
        data: Batches,
        trainer: Trainer,
        layout: Layout,
        out: Place,
        config_text: str,
        opened: contextlib.ExitStack,
        profile: Steps | None = None,
    ):
        self.began = time.monotonic()
        self.data, self.task, self.trainer, self.layout, self.out = data, task, trainer, layout, out
        self.meta = Meta(config_text, data.fingerprint(), trainer.seed, task.model_files())
        self.spool = UploadBuffer(out, brought=(METRICS_FILE, goodput.FILE))
        opened.callback(self.spool.close)
        make_folder(self.spool.folder)
        watchdog = opened.enter_context(Watchdog(trainer.stall_seconds, self.spool.folder))
        self.checkpoints = Checkpoints(out, trainer.keep, trainer.keep_every, before_commit=self.spool.send_now)
        opened.callback(self.checkpoints.close)
        found = self.checkpoints.newest()
        if found is not None:
            refuse_changes(self.checkpoints.meta(found), self.meta, out)
        self.runner = CompiledTask(task, trainer, layout)
        self.state = self._first_state(found)
        self.start = 0 if found is None else found
        self.saved = found
        if hosts.is_first():
            write_files(self.spool.folder, self.meta)
        self.writers = Writers(self.spool.folder, self.start) if hosts.is_first() else None
        if self.writers is not None:
            opened.callback(self.writers.close)
        self.progress = Progress(self.start, trainer.steps, silent=not hosts.is_first())
        opened.callback(self.progress.close)
        self.watch = Watch(trainer.abort_after_skips, detectors.detectors(trainer.schedule.warmup))
        self.monitor = Monitor(watchdog, self.runner, layout, data.batch_size, self.spool.folder, self.start)
        self.profiler = Profiler(self.spool.folder, profile, self.progress.say)
        self.metrics: dict[str, float] = newest_figures(self.spool.folder)
        self.sums: MetricSums | None = None
        self.warned_of_cuts = False
        self.logged = (self.start, time.monotonic())

    def go(self) -> TrainResult:
        """The loop."""
        if self.start:
            self.progress.say(f"{self.out}: going on from step {self.start} of {self.trainer.steps}")
        told = self.runner.plan.told()
        if told is not None:
            self.progress.say(told)
        step = self.start
        batches = prefetch.Prefetcher(self.task, self.data, self.layout, self.trainer.seed, step, self.trainer.steps)
        with Interrupt() as interrupt, self.profiler:
            try:
                while step < self.trainer.steps and not hosts.agree_to_stop(interrupt.asked, step):
                    self.profiler.between(step, self.state.step)
                    batch = self.monitor.batch(batches.next)
                    self.state, self.sums = self.runner.step(self.state, self.sums, batch)
                    del batch  # or it would lie on the devices beside the next one
                    step += 1
                    self.monitor.stepped(step)
                    self.progress.step(step)
                    self._after(step)
            finally:
                batches.close()
            self.profiler.ends(step, self.state.step)
            self._tell_cuts(mostly_cut_only=False)
            self._account(last=True)
            self._save(step)
            with self.monitor.pause(step, Phase.CHECKPOINT, self.state.step):
                self.checkpoints.wait()
        interrupted = step < self.trainer.steps
        if interrupted:
            self.progress.say(f"stopped at step {step} and saved; go on with:\n  {command_to_go_on()}")
        seconds = time.monotonic() - self.began
        parameters = sum(one.size for one in self.state.params.values())
        return TrainResult(step, dict(self.metrics), interrupted, seconds, int(self.state.skipped), parameters)

    def _first_state(self, found: int | None) -> State:
        if found is None:
            born = self.runner.plan.born(self.layout, self.trainer.seed)
            if self.trainer.initial is None:
                return born
            return with_weights(born, self.task, storage.place(self.trainer.initial), self.layout)
        return self.checkpoints.restore(found, self.runner.plan.target())

    def _after(self, step: int) -> None:
        trainer, last = self.trainer, step == self.trainer.steps
        if step % trainer.log_every == 0 or last:
            self._log(step)
        if due(step, trainer.evaluate_every, last):
            with self.monitor.pause(step, Phase.EVALUATION, self.state.step):
                self._evaluate(step)
        if due(step, trainer.images_every, last):
            with self.monitor.pause(step, Phase.IMAGES, self.state.step):
                self._draw(step)
        if due(step, trainer.save_every, False):
            self._save(step)

    def _log(self, step: int) -> None:
        """Reads the figures since the last time: the only place of the loop that waits for the devices."""
        with self.monitor.reading(step):
            values = metrics.divide(self.sums or {})
        self.sums = None
        before, then = self.logged
        self.logged = (step, time.monotonic())
        values["steps_per_second"] = (step - before) / max(self.logged[1] - then, 1e-9)
        figures, said = self.monitor.figures()
        for line in said:
            self.progress.say(f"WARNING step {step}: {line}")
        self._write(step, {f"train/{name}": value for name, value in values.items()} | figures)
        self.progress.log(step, {"loss": values["loss"]} if "loss" in values else {})
        if not self.warned_of_cuts:
            self._tell_cuts(mostly_cut_only=True)
        self.watch.check(step, int(self.state.skipped_in_a_row))
        if isinstance(self.data, Accountable):
            try:
                self.data.stop_together()
            except UserError:
                self._account(last=False)
                raise

    def _tell_cuts(self, mostly_cut_only: bool) -> None:
        """Say how many captions were cut to the text length, loudly and early if it is most of them."""
        if not isinstance(self.task, ReadsCaptions):
            return
        cut, read, length = self.task.cut_captions()
        mostly = 2 * cut > read
        if cut and (mostly or not mostly_cut_only):
            self.warned_of_cuts = True
            loud = "WARNING: most captions lose their end: " if mostly else ""
            self.progress.say(f"{loud}{cut:,} of {read:,} captions read were cut to {length}")

    def _account(self, last: bool) -> None:
        """Writes what became of the data's records, and tells it at the end."""
        told = self.data.told() if isinstance(self.data, Accountable) else None
        if told is not None and hosts.is_first():
            name, content, line = told
            storage.write(self.spool.folder / name, content)
            if last:
                self.progress.say(line)

    def _evaluate(self, step: int) -> None:
        sums: MetricSums | None = None
        for index, batch in enumerate(prefetch.evaluation(self.task, self.data, self.layout)):
            sums = self.runner.merge(sums, self.runner.evaluate(self.state, batch, index))
        values = metrics.divide(sums or {})
        if values:
            self._write(step, {f"evaluation/{name}": value for name, value in values.items()})
            self.progress.say(f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _draw(self, step: int) -> None:
        batch = next(prefetch.evaluation(self.task, self.data, self.layout), None)
        drawn = None if batch is None else self.runner.images(self.state, batch)
        if drawn is not None and self.writers is not None:
            drawn = jax.device_get(drawn)
            page = sample_sheet.sheet(drawn)
            sample_sheet.write(self.spool.folder, step, page)
            self._write(step, {"images/one_colour": sample_sheet.one_colour(drawn)})
            self.writers.image(step, "images", page)
            self.spool.send()

    def _save(self, step: int) -> None:
        if self.saved != step:
            with self.monitor.pause(step, Phase.CHECKPOINT, self.state.step):
                self.monitor.saves(step)
                self._account(last=False)
                self.checkpoints.save(step, self.state, self.meta)
            self.saved = step

    def _write(self, step: int, values: dict[str, float]) -> None:
        self.metrics.update(values)
        for line in self.watch.warnings(step, values):
            self.progress.say(line)
        if self.writers is not None:
            self.writers.figures(step, values)
            self.spool.send()


def due(step: int, every: int | None, last: bool) -> bool:
    """Whether what is done every so often is done after this step."""
    return every is not None and (step % every == 0 or last)


def make_folder(out: Path) -> None:
    """The run folder, with its parents."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error


def write_files(out: Path, meta: Meta) -> None:
    """``config.gin`` and the files that make the model usable from the folder alone."""
    for name, content in {"config.gin": meta.config.encode(), **meta.files}.items():
        try:
            (out / name).write_bytes(content)
        except OSError as error:
            raise unwritable(out / name, error) from error


def refuse_changes(old: Meta, new: Meta, out: Place) -> None:
    """Raises UserError where going on would not be the same run: other data, another seed, another model."""
    changed = []
    if old.fingerprint != new.fingerprint:
        changed.append(
            f"data: its checkpoints were trained on {old.fingerprint}, now it is {new.fingerprint} "
            f"({data_difference(old.config, new.config)})"
        )
    if old.seed != new.seed:
        changed.append(f"trainer.seed: {old.seed} in its checkpoints, {new.seed} now")
    for name in sorted(old.files.keys() | new.files.keys()):
        before, now = old.files.get(name, b""), new.files.get(name, b"")
        if before != now:
            changed.append(f"{name}: {first_difference(before, now)}")
    if changed:
        raise UserError(f"cannot go on in {out}: " + "; ".join(changed) + ". Undo the change, or give another --out")


def data_difference(before: str, now: str) -> str:
    """The first line of the config's data that differs, or that none does."""
    old, new = ([line for line in text.splitlines() if line.startswith("data")] for text in (before, now))
    if old == new:
        return "the config says the same, so what it names holds something else now"
    return first_difference("\n".join(old).encode(), "\n".join(new).encode())


def first_difference(before: bytes, now: bytes) -> str:
    """The first line that differs, or that the contents do, for files that are no text."""
    try:
        old, new = before.decode().splitlines(), now.decode().splitlines()
    except UnicodeDecodeError:
        return "its contents differ"
    gone = [line for line in old if line not in new][:1] or ["nothing"]
    come = [line for line in new if line not in old][:1] or ["nothing"]
    return f"had {gone[0]!r}, now has {come[0]!r}"


def newest_figures(out: Path) -> dict[str, float]:
    """The last value of each figure in ``metrics.jsonl``."""
    path = out / METRICS_FILE
    found: dict[str, Any] = {}
    for line in read_lines(path) if path.exists() else []:
        found.update(line)
    return {name: value for name, value in found.items() if name != "step" and value is not None}
