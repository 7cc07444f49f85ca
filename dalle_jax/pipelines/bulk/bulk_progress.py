"""Progress of a bulk job in lines, and a grid of its latest images."""

import time
from collections import deque
from collections.abc import Callable

import jax
import numpy as np

from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.parallel.chips import chip_of
from dalle_jax.pipelines.bulk.device_engine import DrawnPrompt
from dalle_jax.storage import Place

SAY_EVERY = 10.0
"""Seconds between two lines of progress."""
GRID_EVERY = 60.0
"""Seconds between two grids."""
GRID_PROMPTS, GRID_IMAGES = 8, 4
"""The latest prompts in a grid, and the images of each."""


def peak_flops() -> float | None:
    """Return the peak FLOP/s of this process's devices, or None for devices without a known peak, such as a CPU."""
    devices = jax.local_devices()
    chips = [chip_of(device.device_kind) for device in devices]
    return sum(chip.device_flops for chip in chips if chip is not None) if all(chips) else None


class BulkProgress:
    """Counts of the images of one process, printed every few seconds.

    The rate leaves out the time until the first prompt is drawn, which compiles. MFU is the FLOPs of the products of
    ``images`` per second, divided by the peak of the devices.
    """

    def __init__(
        self,
        total: int,
        say: Callable[[str], None],
        flops_per_image: float | None = None,
        peak: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count towards ``total`` sampled images. Without a peak or FLOPs the lines have no MFU."""
        self._total, self._say, self._clock = total, say, clock
        self._share_per_rate = None if flops_per_image is None or peak is None else flops_per_image / peak
        self._began = self._reported = clock()
        self._first: tuple[float, int] | None = None
        self.images = 0

    def add(self, drawn: DrawnPrompt) -> None:
        """Count a prompt, and print a line if the last one is some seconds old."""
        self.images += drawn.request.options.candidates
        now = self._clock()
        if self._first is None:
            self._first = now, self.images
        if now - self._reported > SAY_EVERY:
            self._reported = now
            self._say(self.line())

    @property
    def rate(self) -> float | None:
        """Sampled images per second since the first prompt, or None before a second one."""
        if self._first is None or self._clock() <= self._first[0] or self.images == self._first[1]:
            return None
        return (self.images - self._first[1]) / (self._clock() - self._first[0])

    def line(self) -> str:
        """Return a line such as ``320 of 3,200 images, 41 a second, 1 min left``."""
        parts = [f"{self.images:,} of {self._total:,} images"]
        if (rate := self.rate) is not None:
            parts += [f"{rate:,.3g} a second", f"{duration((self._total - self.images) / rate)} left"]
            if self._share_per_rate is not None:
                parts.append(f"MFU {100 * rate * self._share_per_rate:.3g} %")
        return ", ".join(parts)

    @property
    def seconds(self) -> float:
        """The seconds since the start, compiling included."""
        return self._clock() - self._began


def duration(seconds: float) -> str:
    """Return a time in words, such as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class LatestGrid:
    """``grid.png`` of the latest prompts and their best images, written again every minute."""

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._place, self._clock = place, clock
        self._latest: deque[DrawnPrompt] = deque(maxlen=GRID_PROMPTS)
        self._written: float | None = None

    def add(self, drawn: DrawnPrompt) -> None:
        """Add a prompt."""
        self._latest.append(drawn)
        if len(self._latest) == GRID_PROMPTS and (self._written is None or self._clock() - self._written > GRID_EVERY):
            self.write()

    def write(self) -> None:
        """Write the grid, if there is any image."""
        if not self._latest:
            return
        self._written = self._clock()
        columns = min(GRID_IMAGES, max(len(one.pixels) for one in self._latest))
        images, captions = [], []
        for one in self._latest:
            shown = list(one.pixels[:columns])
            images += shown + [np.full_like(shown[0], 255)] * (columns - len(shown))
            captions += [one.request.title] + [""] * (columns - 1)
        scale = max(1, 128 // images[0].shape[0])
        write_png(self._place / "grid.png", grid(images, columns=columns, captions=captions, scale=scale))
