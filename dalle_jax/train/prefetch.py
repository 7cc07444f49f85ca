"""Prefetching: a background thread prepares batches and puts them on the devices ahead of their step."""

import queue
import threading
from collections.abc import Iterator

import numpy as np

from dalle_jax.arrays import CANDIDATE, COUNTED
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.task import Batch, Batches, Task

AHEAD = 2


class Prefetcher:
    """The batches of consecutive steps, prepared in a thread; ``next`` raises the thread's errors."""

    def __init__(self, task: Task, data: Batches, layout: Layout, seed: int, steps: range):
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD)
        self._stop = threading.Event()
        arguments = (task, data, layout, seed, steps)
        self._thread = threading.Thread(target=self._fill, args=arguments, name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """Return the next batch, on the devices."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)

    def _fill(self, task: Task, data: Batches, layout: Layout, seed: int, steps: range) -> None:
        try:
            rows = layout.local_rows(data.batch_size).tolist()
            for step in steps:
                seeds = [(seed, step, row) for row in rows]
                self._put(layout.put_batch(task.prepare(data.batch(step, rows), seeds), data.batch_size))
                if self._stop.is_set():
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _drain(self) -> None:
        while not self._ready.empty():
            self._ready.get_nowait()


def evaluation(task: Task, data: Batches, layout: Layout) -> Iterator[Batch]:
    """Yield the held-out batches on the devices, in a fixed order, with COUNTED and CANDIDATE if the data has them."""
    for examples in data.evaluation_batches(layout.local_rows(data.batch_size).tolist()):
        marks: dict[str, np.ndarray] = {
            name: np.array(examples.pop(name), bool) for name in (COUNTED, CANDIDATE) if name in examples
        }
        yield layout.put_batch({**task.prepare(examples, None), **marks}, data.batch_size)
