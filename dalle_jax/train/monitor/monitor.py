"""What the loop says about itself while it runs: speed, goodput, recompiles, other hosts, and a watchdog over it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from dalle_jax.parallel import hosts
from dalle_jax.parallel.chips import chip_of
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.monitor import timing
from dalle_jax.train.monitor.goodput import GoodputLog
from dalle_jax.train.monitor.watchdog import Phase, Watchdog

T = TypeVar("T")


class Monitor:
    """Of one process of one run. In the loop it reads the clock and no more; figures are made at logging steps."""

    def __init__(self, watchdog: Watchdog, runner: CompiledTask, layout: Layout, batch_size: int, out: Path, step: int):
        self._watchdog, self._runner, self._batch_size = watchdog, runner, batch_size
        self._pace = timing.StepTimer()
        self._before = self._pace.spent()
        self._ledger = GoodputLog(out, step) if hosts.is_first() else None
        self._straggler, self._names = timing.Straggler(), timing.host_names()
        self._flops: tuple[float | None, float | None] | None = None
        self._peak = peak_flops([device.device_kind for device in layout.mesh.devices.flat])
        watchdog.starts(step)

    def batch(self, get: Callable[[], T]) -> T:
        """What ``get`` gives, which is waiting for a batch."""
        self._watchdog.waits_for(Phase.BATCH)
        got = self._pace.wait_for(get)
        self._watchdog.waits_for(Phase.STEP)
        return got

    def stepped(self, step: int) -> None:
        """A step was handed to the devices."""
        self._pace.stepped()
        self._watchdog.stepped(step, self._runner.mark)
        self._watchdog.waits_for(Phase.PROCESSES)

    @contextlib.contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Around the reading of figures, which waits for the devices."""
        self._watchdog.waits_for(Phase.DEVICES)
        yield
        self._watchdog.finished(step)
        self._watchdog.waits_for(Phase.PROCESSES)

    @contextlib.contextmanager
    def pause(self, step: int, doing: Phase, last: Any) -> Iterator[None]:
        """Around what is no step. ``last`` is an array of the newest step: its time is not that of the pause."""
        with self.reading(step):
            jax.block_until_ready(last)
        with self._pace.pause():
            self._watchdog.waits_for(doing)
            yield
            self._watchdog.waits_for(Phase.PROCESSES)

    def saves(self, step: int) -> None:
        """Before a checkpoint is saved."""
        if self._ledger is not None:
            self._ledger.record(step, self._pace.spent().useful)

    def figures(self) -> tuple[dict[str, float], list[str]]:
        """Those of the interval since the last time, by full names, and what to say loudly. All processes at once.

        Right after the devices were waited for. An interval with no step by the clock has figures of the run alone.
        """
        spent = self._pace.spent()
        interval, self._before = spent.since(self._before), spent
        found = {"speed/compiles": float(self._runner.compiles()["step"])}
        if self._ledger is not None:
            found["speed/goodput"] = self._ledger.goodput(spent.useful)
        said = [f"the step was compiled again: {why}" for why in self._runner.recompiled()]
        if interval.steps:
            rows = timing.gathered(interval, self._pace.longest_wait())
            straggler = self._straggler.line(rows, self._names)
            said += [] if straggler is None else [straggler]
            found |= rows.figures() | self._rates(interval.steps / interval.seconds)
        return found, said

    def _rates(self, steps_per_second: float) -> dict[str, float]:
        """Examples per second and, where they are known, the shares of the chips' peak that are made use of."""
        found = {"speed/examples_per_second": steps_per_second * self._batch_size}
        if self._peak is None:
            return found
        if self._flops is None:  # counted once, which takes as long as tracing the step
            with self._pace.pause():
                self._flops = self._runner.flops(self._batch_size)
        for name, flops in zip(("speed/mfu", "speed/hfu"), self._flops, strict=True):
            if flops is not None:
                found[name] = flops * steps_per_second / self._peak
        return found


def peak_flops(kinds: Sequence[str]) -> float | None:
    """FLOP/s of devices of those kinds together, by their makers' data sheets; None where one of them is not known."""
    chips = [chip_of(kind) for kind in kinds]
    known = [chip.device_flops for chip in chips if chip is not None]
    return sum(known) if len(known) == len(chips) else None
