"""Monitoring of the training loop: speed, goodput, recompilations, stragglers, and the watchdog."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax

from dalle_jax.arrays import Array
from dalle_jax.parallel import hosts
from dalle_jax.parallel.chips import chip_of
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.monitor import timing
from dalle_jax.train.monitor.goodput import GoodputLog
from dalle_jax.train.monitor.watchdog import Phase, Watchdog

T = TypeVar("T")


class Monitor:
    """The monitor of one process. In the loop it only reads the clock; metrics are computed at logging steps."""

    def __init__(
        self, watchdog: Watchdog, compiled: CompiledTask, layout: Layout, batch_size: int, out: Path, step: int
    ):
        self._watchdog, self._compiled, self._batch_size = watchdog, compiled, batch_size
        self._timer = timing.StepTimer()
        self._before = self._timer.spent()
        self._goodput = GoodputLog(out, step) if hosts.is_first() else None
        self._straggler, self._names = timing.Straggler(), timing.host_names()
        self._flops: tuple[float | None, float | None] | None = None
        self._peak = peak_flops([device.device_kind for device in layout.mesh.devices.flat])
        watchdog.start(step)

    def batch(self, get: Callable[[], T]) -> T:
        """Call ``get``, which returns the next batch, and record the wait."""
        self._watchdog.enter(Phase.BATCH)
        got = self._timer.wait_for(get)
        self._watchdog.enter(Phase.STEP)
        return got

    def rollout(self, get: Callable[[], T]) -> T:
        """Call ``get``, which returns a batch of judged samples; its time is time of the step."""
        self._watchdog.enter(Phase.ROLLOUT)
        got = get()
        self._watchdog.enter(Phase.STEP)
        return got

    def stepped(self, step: int) -> None:
        """Record that a step was dispatched to the devices."""
        self._timer.stepped()
        self._watchdog.stepped(step, self._compiled.mark)
        self._watchdog.enter(Phase.PROCESSES)

    @contextlib.contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Return a context for reading metrics, which waits for the devices; on exit ``step`` counts as finished."""
        self._watchdog.enter(Phase.DEVICES)
        yield
        self._watchdog.finished(step)
        self._watchdog.enter(Phase.PROCESSES)

    @contextlib.contextmanager
    def pause(self, step: int, phase: Phase, last: Array) -> Iterator[None]:
        """Return a context for work that is not a step. It waits first for ``last``, an array of the newest step."""
        with self.reading(step):
            jax.block_until_ready(last)
        with self._timer.pause():
            self._watchdog.enter(phase)
            yield
            self._watchdog.enter(Phase.PROCESSES)

    def before_save(self, step: int) -> None:
        """Record the goodput before a checkpoint is saved."""
        if self._goodput is not None:
            self._goodput.record(step, self._timer.spent().useful)

    def metrics(self) -> tuple[dict[str, float], list[str]]:
        """Return the metrics since the last call by full name, and warnings to print.

        All processes must call it together.

        Call it when the devices have finished the dispatched steps. If no step was timed since the last call, it
        returns only goodput and the number of compilations.
        """
        spent = self._timer.spent()
        interval, self._before = spent.since(self._before), spent
        found = {"speed/compiles": float(self._compiled.compiles()["step"])}
        if self._goodput is not None:
            found["speed/goodput"] = self._goodput.goodput(spent.useful)
        messages = [f"the step was compiled again: {why}" for why in self._compiled.recompiled()]
        if interval.steps:
            rows = timing.gathered(interval, self._timer.longest_wait())
            straggler = self._straggler.message(rows, self._names)
            messages += [] if straggler is None else [straggler]
            found |= rows.metrics() | self._rates(interval.steps / interval.seconds)
        return found, messages

    def _rates(self, steps_per_second: float) -> dict[str, float]:
        """Return examples per second, and MFU and HFU if the chips and the FLOPs are known."""
        found = {"speed/examples_per_second": steps_per_second * self._batch_size}
        if self._peak is None:
            return found
        if self._flops is None:  # computed once, which takes as long as tracing the step
            with self._timer.pause():
                self._flops = self._compiled.flops(self._batch_size)
        for name, flops in zip(("speed/mfu", "speed/hfu"), self._flops, strict=True):
            if flops is not None:
                found[name] = flops * steps_per_second / self._peak
        return found


def peak_flops(kinds: Sequence[str]) -> float | None:
    """Return the sum of the devices' published peak FLOP/s, or None if the kind of a device is unknown."""
    chips = [chip_of(kind) for kind in kinds]
    known = [chip.device_flops for chip in chips if chip is not None]
    return sum(known) if len(known) == len(chips) else None
