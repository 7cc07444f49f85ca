"""The training loop: batches, steps, metrics, evaluation, sample images and checkpoints, the same for every task."""

import contextlib
import errno
import time
from pathlib import Path

import jax

from dalle_jax import storage
from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.storage import Place
from dalle_jax.train import metrics, prefetch
from dalle_jax.train.checkpoints.checkpoints import Checkpoints, Meta
from dalle_jax.train.checkpoints.save_weights import with_weights
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.measure import measured
from dalle_jax.train.monitor import goodput
from dalle_jax.train.monitor.detectors import Alerts, detectors
from dalle_jax.train.monitor.monitor import Monitor
from dalle_jax.train.monitor.profiler import Profiler, Steps
from dalle_jax.train.monitor.watchdog import Phase, Watchdog
from dalle_jax.train.output import sample_sheet
from dalle_jax.train.output.upload import UploadBuffer
from dalle_jax.train.output.writers import METRICS_FILE, Progress, Writers, read_lines
from dalle_jax.train.rollouts import Rollouts, check_updates
from dalle_jax.train.signals import Interrupt, command_to_resume
from dalle_jax.train.state import State
from dalle_jax.train.task import (
    Batch,
    Batches,
    MetricSums,
    ReadsCaptions,
    ReportsRecords,
    Suites,
    Task,
    TrainsOnSamples,
)
from dalle_jax.train.trainer import Trainer, TrainResult

CONFIG_FILE = "config.gin"
SHOWN = ("loss", "reward")
"""The metrics of training on a line of progress."""


def train(
    task: Task,
    data: Batches,
    trainer: Trainer,
    layout: Layout,
    out: str | Place,
    config_text: str,
    profile: Steps | None = None,
    suites: Suites | None = None,
) -> TrainResult:
    """Train up to step ``trainer.steps``. Start from the newest checkpoint in ``out`` if there is one.

    ``profile`` selects steps to trace (train/monitor/profiler.py), and ``suites`` measures the model every
    ``trainer.suites_every`` steps. Raise UserError if the folder cannot be written, if
    its checkpoints belong to a different model, data set or seed, or if the run diverges.
    """
    with contextlib.ExitStack() as opened:
        return TrainLoop(task, data, trainer, layout, storage.place(out), config_text, opened, profile, suites).run()


class TrainLoop:
    """A training run. Everything that it opens is closed with the exit stack ``opened``."""

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
        suites: Suites | None = None,
    ):
        self.began = time.monotonic()
        self.data, self.task, self.trainer, self.layout, self.out = data, task, trainer, layout, out
        self.suites = suites
        self.meta = Meta(config_text, data.fingerprint(), trainer.seed, task.model_files())
        self.uploads = UploadBuffer(out, resumed=(METRICS_FILE, goodput.FILE))
        opened.callback(self.uploads.close)
        make_folder(self.uploads.folder)
        watchdog = opened.enter_context(Watchdog(trainer.stall_seconds, self.uploads.folder))
        self.checkpoints = Checkpoints(out, trainer.keep, trainer.keep_every, before_commit=self.uploads.send_now)
        opened.callback(self.checkpoints.close)
        found = self.checkpoints.newest()
        if found is not None:
            check_same_run(self.checkpoints.meta(found), self.meta, out)
            if found > trainer.steps:
                raise UserError(
                    f"trainer.steps: expected at least {found}, the step of the newest checkpoint in {out}, "
                    f"got {trainer.steps}"
                )
        if found is None and trainer.initial is None:  # else the checkpoint has the statistics
            self.task = task = measured(task, data, layout)
        self.rollouts: Rollouts | None = None
        if isinstance(task, TrainsOnSamples):
            check_updates(task, trainer, data.batch_size)
            self.rollouts = Rollouts(task, data, layout, trainer.seed)
        self.compiled = CompiledTask(task, trainer, layout)
        self.state = self._first_state(found)
        self.start = 0 if found is None else found
        self.saved = found
        if hosts.is_first():
            write_files(self.uploads.folder, self.meta)
        self.writers = Writers(self.uploads.folder, self.start) if hosts.is_first() else None
        if self.writers is not None:
            opened.callback(self.writers.close)
        self.progress = Progress(self.start, trainer.steps, silent=not hosts.is_first())
        opened.callback(self.progress.close)
        self.alerts = Alerts(trainer.abort_after_skips, detectors(trainer.schedule.warmup))
        self.monitor = Monitor(watchdog, self.compiled, layout, data.batch_size, self.uploads.folder, self.start)
        self.profiler = Profiler(self.uploads.folder, profile, self.progress.message)
        self.metrics: dict[str, float] = newest_metrics(self.uploads.folder)
        self.sums: MetricSums | None = None
        self.warned_of_cuts = False
        self.logged = (self.start, time.monotonic())

    def run(self) -> TrainResult:
        """Run all steps that are left, then save a checkpoint."""
        if self.start:
            self.progress.message(f"{self.out}: resuming from step {self.start} of {self.trainer.steps}")
        if self.trainer.schedule.warmup > self.trainer.steps:
            self.progress.message(
                f"WARNING trainer.schedule.warmup: the warm-up has {self.trainer.schedule.warmup} steps and the run "
                f"{self.trainer.steps}, so the learning rate never reaches its value"
            )
        description = self.compiled.state_spec.describe()
        if description is not None:
            self.progress.message(description)
        step = self.start
        if self.rollouts is not None and step == 0 and self.trainer.evaluate_every is not None:
            self._evaluate(0)  # the figures of the start, with which detectors compare
        steps = range(step, step if self.rollouts is not None else self.trainer.steps)
        batches = prefetch.Prefetcher(self.task, self.data, self.layout, self.trainer.seed, steps)
        with Interrupt() as interrupt, self.profiler:
            try:
                while step < self.trainer.steps and not self._stops(interrupt, step):
                    self.profiler.before_step(step, self._newest())
                    batch = self._batch(batches, step)
                    self.state, self.sums = self.compiled.step(self.state, self.sums, batch)
                    del batch  # free its device memory before the next batch is taken
                    step += 1
                    self.monitor.stepped(step)
                    self.progress.step(step)
                    self._after(step)
            finally:
                batches.close()
            self.profiler.end(step, self._newest())
            self._log_cut_captions(mostly_cut_only=False)
            self._report_records(last=True)
            self._save(step)
            with self.monitor.pause(step, Phase.CHECKPOINT, self._newest()):
                self.checkpoints.wait()
        interrupted = step < self.trainer.steps
        if interrupted:
            self.progress.message(
                f"stopped at step {step} and saved a checkpoint; resume with:\n  {command_to_resume()}"
            )
        seconds = time.monotonic() - self.began
        parameters = sum(one.size for one in self.state.learned.params.values())
        skipped = int(self.state.counted.skipped)
        return TrainResult(step, dict(self.metrics), interrupted, seconds, skipped, parameters)

    def _stops(self, interrupt: Interrupt, step: int) -> bool:
        """Return True if the run was asked to stop, but not between the steps of one rollout."""
        resumable = self.rollouts is None or self.rollouts.used_up
        return resumable and hosts.agree_to_stop(interrupt.asked, step)

    def _batch(self, batches: prefetch.Prefetcher, step: int) -> Batch:
        """Return the batch of a step: the next one of the data, or one of the newest rollout."""
        rollouts = self.rollouts
        if rollouts is None:
            return self.monitor.batch(batches.next)
        return self.monitor.rollout(lambda: rollouts.next(self.compiled, self.state, step))

    def _first_state(self, found: int | None) -> State:
        if found is None:
            fresh = self.compiled.state_spec.init_sharded(self.layout, self.trainer.seed)
            if self.trainer.initial is None:
                return fresh
            return with_weights(fresh, self.task, storage.place(self.trainer.initial), self.layout)
        return self.checkpoints.restore(found, self.compiled.state_spec.target())

    def _newest(self) -> Array:
        """Return an array of the newest step, which is ready when that step has finished."""
        return self.state.counted.step

    def _after(self, step: int) -> None:
        trainer, last = self.trainer, step == self.trainer.steps
        if step % trainer.log_every == 0 or last:
            self._log(step)
        if is_due(step, trainer.evaluate_every, last):
            with self.monitor.pause(step, Phase.EVALUATION, self._newest()):
                self._evaluate(step)
        if is_due(step, trainer.images_every, last):
            with self.monitor.pause(step, Phase.IMAGES, self._newest()):
                self._draw(step)
        if is_due(step, trainer.save_every, False):
            self._save(step)
        if self.suites is not None and is_due(step, trainer.suites_every, last):
            self._run_suites(step, self.suites)

    def _log(self, step: int) -> None:
        """Write the metrics since the last call. Apart from pauses, the loop waits for the devices only here."""
        with self.monitor.reading(step):
            values = metrics.divide(self.sums or {})
        self.sums = None
        sampled = {} if self.rollouts is None else self.rollouts.metrics()
        before, then = self.logged
        self.logged = (step, time.monotonic())
        values["steps_per_second"] = (step - before) / max(self.logged[1] - then, 1e-9)
        speeds, messages = self.monitor.metrics()
        for message in messages:
            self.progress.message(f"WARNING step {step}: {message}")
        logged = {f"train/{name}": value for name, value in values.items()} | sampled
        self._write(step, logged | speeds)
        self.progress.metrics(step, {one: logged[f"train/{one}"] for one in SHOWN if f"train/{one}" in logged})
        if not self.warned_of_cuts:
            self._log_cut_captions(mostly_cut_only=True)
        self.alerts.check(step, int(self.state.counted.skipped_in_a_row))
        if isinstance(self.data, ReportsRecords):
            try:
                self.data.stop_together()
            except UserError:
                self._report_records(last=False)
                raise

    def _log_cut_captions(self, mostly_cut_only: bool) -> None:
        """Log the number of captions that were cut to the text length, with a warning if most captions were cut."""
        if not isinstance(self.task, ReadsCaptions):
            return
        cut, read, length = self.task.cut_captions()
        mostly = 2 * cut > read
        if cut and (mostly or not mostly_cut_only):
            self.warned_of_cuts = True
            warning = "WARNING: most captions lose their end: " if mostly else ""
            self.progress.message(f"{warning}{cut:,} of {read:,} captions read ({cut / read:.0%}) were cut to {length}")

    def _report_records(self, last: bool) -> None:
        """Write the report on unusable records of the data. If ``last`` is True, log its summary too."""
        report = self.data.report() if isinstance(self.data, ReportsRecords) else None
        if report is not None and hosts.is_first():
            name, content, line = report
            storage.write(self.uploads.folder / name, content)
            if last:
                self.progress.message(line)

    def _evaluate(self, step: int) -> None:
        sums: MetricSums | None = None
        for index, batch in enumerate(prefetch.evaluation(self.task, self.data, self.layout)):
            sums = self.compiled.merge(sums, self.compiled.evaluate(self.state, batch, index))
        values = metrics.divide(sums or {})
        if values:
            self._write(step, {f"evaluation/{name}": value for name, value in values.items()})
            text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.progress.message(f"step {step}: {text}")

    def _draw(self, step: int) -> None:
        batch = next(prefetch.evaluation(self.task, self.data, self.layout), None)
        images = None if batch is None else self.compiled.images(self.state, batch)
        if images is not None and self.writers is not None:
            pixels = jax.device_get(images)
            sheet = sample_sheet.sheet(pixels)
            sample_sheet.write(self.uploads.folder, step, sheet)
            self._write(step, {"images/one_colour": sample_sheet.one_colour(pixels)})
            self.writers.image(step, "images", sheet)
            self.uploads.send()

    def _run_suites(self, step: int, suites: Suites) -> None:
        """Save a checkpoint, measure the model in the run's folder, and write the figures."""
        self._save(step)
        with self.monitor.pause(step, Phase.EVALUATION, self._newest()):
            self.checkpoints.wait()
            self.uploads.send_now()
            values = suites(self.out, self.progress.message)
        self._write(step, {f"suites/{name}": value for name, value in values.items()})

    def _save(self, step: int) -> None:
        if self.saved != step:
            with self.monitor.pause(step, Phase.CHECKPOINT, self._newest()):
                if hosts.is_first():
                    check_in_place(self.uploads.folder)
                self.monitor.before_save(step)
                self._report_records(last=False)
                self.checkpoints.save(step, self.state, self.meta)
            self.saved = step

    def _write(self, step: int, values: dict[str, float]) -> None:
        self.metrics.update(values)
        for warning in self.alerts.warnings(step, values):
            self.progress.message(warning)
        if self.writers is not None:
            self.writers.metrics(step, values)
            self.uploads.send()


def is_due(step: int, every: int | None, last: bool) -> bool:
    """Return True if an action that happens every ``every`` steps is due after this step.

    If ``every`` is None, the action never happens.
    """
    return every is not None and (step % every == 0 or last)


def make_folder(out: Path) -> None:
    """Create the run folder and its parents."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage.cannot_write(out, error) from error


def check_in_place(out: Path) -> None:
    """Raise ``UserError`` if the run folder was moved or deleted; a save would create an incomplete one."""
    if not (out / CONFIG_FILE).exists():
        raise storage.cannot_write(out, FileNotFoundError(errno.ENOENT, f"{CONFIG_FILE} is gone"))


def write_files(out: Path, meta: Meta) -> None:
    """Write ``config.gin`` and the model's small files, so that the model can be used from its folder alone."""
    for name, content in {CONFIG_FILE: meta.config.encode(), **meta.files}.items():
        try:
            (out / name).write_bytes(content)
        except OSError as error:
            raise storage.cannot_write(out / name, error) from error


def check_same_run(old: Meta, new: Meta, out: Place) -> None:
    """Raise UserError if the data, the seed or the model of a checkpoint differs from this run's."""
    changed = []
    if old.fingerprint != new.fingerprint:
        changed.append(
            f"data: its checkpoints were trained on {old.fingerprint}, now it is {new.fingerprint} "
            f"({data_difference(old.config, new.config)})"
        )
    if old.seed != new.seed:
        changed.append(f"trainer.seed: {old.seed} in its checkpoints, {new.seed} now")
    for name in sorted(old.files.keys() | new.files.keys()):
        before, now = (one.files.get(name, b"") for one in (old, new))
        if name == "model.gin":
            before, now = _without_recommendations(before), _without_recommendations(now)
        if before != now:
            changed.append(f"{name}: {first_difference(before, now)}")
    if changed:
        shown = "; ".join(changed)
        raise UserError(f"cannot resume in {out}: {shown}. Undo the change, or give a different --out")


def _without_recommendations(file: bytes) -> bytes:
    """Return a ``model.gin`` without the options that it recommends to sample with, which do not change training."""
    return b"".join(line for line in file.splitlines(keepends=True) if not line.startswith(b"sampling"))


def data_difference(before: str, now: str) -> str:
    """Describe the first difference between the ``data`` lines of two config texts."""
    old, new = ([line for line in text.splitlines() if line.startswith("data")] for text in (before, now))
    if old == new:
        return "the config is the same, so the content of its files has changed"
    return first_difference("\n".join(old).encode(), "\n".join(new).encode())


def first_difference(before: bytes, now: bytes) -> str:
    """Describe the first removed and the first added line; for binary files, say only that the contents differ."""
    try:
        old, new = before.decode().splitlines(), now.decode().splitlines()
    except UnicodeDecodeError:
        return "its contents differ"
    gone = [line for line in old if line not in new][:1] or ["nothing"]
    come = [line for line in new if line not in old][:1] or ["nothing"]
    return f"had {gone[0]!r}, now has {come[0]!r}"


def newest_metrics(out: Path) -> dict[str, float]:
    """Return the last value of each metric in ``metrics.jsonl``."""
    path = out / METRICS_FILE
    found: dict[str, float | int | None] = {}
    for line in read_lines(path) if path.exists() else []:
        found.update(line)
    return {name: value for name, value in found.items() if name != "step" and value is not None}
