"""Writers of metrics: ``metrics.jsonl``, TensorBoard, and the progress bar. Only the first process writes."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dalle_jax import storage
from dalle_jax.untrusted import parse_object

METRICS_FILE = "metrics.jsonl"
BAR = "{bar:20} {n_fmt}/{total_fmt} {percentage:3.0f}%  {rate_noinv_fmt}  {remaining} left  {desc}"


class Writers:
    """The metric files of a run. Each call of ``metrics`` adds ``{"step": 100, name: value}`` to ``metrics.jsonl``."""

    def __init__(self, out: Path, step: int):
        self._path = out / METRICS_FILE
        try:
            truncate(self._path, step)
            self._lines = self._path.open("a", encoding="utf-8")
            self._board = Board(out, step)
        except OSError as error:
            raise storage.cannot_write(out, error) from error

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line and flush it, so that a killed run loses at most the line being written."""
        finite = {name: value if np.isfinite(value) else None for name, value in values.items()}
        try:
            self._lines.write(json.dumps({"step": step, **finite}) + "\n")
            self._lines.flush()
            self._board.scalars(step, values)
        except OSError as error:
            raise storage.cannot_write(self._path, error) from error

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write an image uint8 [H W 3] to TensorBoard."""
        try:
            self._board.image(step, name, pixels)
        except OSError as error:
            raise storage.cannot_write(self._path.parent, error) from error

    def close(self) -> None:
        """Flush and close the files."""
        try:
            self._lines.close()
            self._board.close()
        except OSError as error:
            raise storage.cannot_write(self._path.parent, error) from error


class Board:
    """A TensorBoard event file, written synchronously, since tensorboardX's own thread hangs on a full disk."""

    def __init__(self, out: Path, step: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._summary, self._protocol = summary, event_pb2
        self._events = event_file_writer.EventsWriter(str(out / "events"))
        if step:  # TensorBoard then drops earlier events beyond the step that the run resumes from
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""
        for name, value in values.items():
            self._write(step, summary=self._summary.scalar(name, value))
        self._events.flush()

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write an image uint8 [H W 3]."""
        self._write(step, summary=self._summary.image(name, pixels, dataformats="HWC"))
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()

    def _write(self, step: int, **content: object) -> None:
        event = self._protocol.Event(wall_time=time.time(), step=step, **content)
        self._events.write_event(event)


def truncate(path: Path, step: int) -> None:
    """Drop the lines beyond ``step``, which a resumed run writes again, and an incomplete last line."""
    if not path.exists():
        return
    kept = [line for line in read_lines(path) if (line["step"] or 0) <= step]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(part, path)


def read_lines(path: Path) -> list[dict[str, float | int | None]]:
    """Return the whole lines of a file such as ``metrics.jsonl``; None is a value that is not finite.

    Lines that are damaged, or name no step, are left out.
    """
    lines = []
    for text in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            line = parse_object(text)
            if isinstance(line.get("step", ""), int | None):
                lines.append(line)
    return lines


class Progress:
    """A progress bar on a terminal; elsewhere a plain line at every logging step.

    If the terminal, or the reader of a pipe, has gone, nothing more is shown and the run goes on.
    """

    def __init__(self, start: int, steps: int, stream: io.TextIOBase | None = None, silent: bool = False):
        self._stream = sys.stderr if stream is None else stream
        self._steps, self._silent = steps, silent
        self._began: tuple[int, float] | None = None
        self._bar: tqdm | None = None
        if self._stream.isatty() and not silent:
            self._bar = tqdm(
                total=steps, initial=start, file=self._stream, bar_format=BAR, unit=" steps", mininterval=0.2
            )

    def step(self, step: int) -> None:
        """Advance to a step. Plain lines show the rate since the first call, which excludes compilation."""
        if self._began is None:
            self._began = (step, time.monotonic())
        bar = self._bar
        if bar is not None:
            self._show(lambda: bar.update(step - bar.n))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show the newest metrics."""
        note, bar = "  ".join(f"{name} {value:.4g}" for name, value in values.items()), self._bar
        if bar is None:
            self.message(self._line(step, note))
        else:
            self._show(lambda: (bar.update(step - bar.n), bar.set_description_str(note)))

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._show(lambda: (tqdm.write(text, file=self._stream), self._stream.flush()))

    def close(self) -> None:
        """Leave the last bar on the screen."""
        if self._bar is not None:
            self._show(self._bar.close)

    def _show(self, show: Callable[[], object]) -> None:
        if self._silent:
            return
        try:
            show()
        except (OSError, ValueError) as error:  # ValueError: the stream itself was closed
            if isinstance(error, ValueError) and not self._stream.closed:
                raise
            self._silent, self._bar = True, None

    def _line(self, step: int, note: str) -> str:
        now = time.monotonic()
        first, began = self._began or (step, now)
        rate = (step - first) / (now - began) if step > first else 0.0
        left = tqdm.format_interval((self._steps - step) / rate) if rate else "?"
        return f"{step}/{self._steps} {100 * step / self._steps:3.0f}%  {rate:.3g} steps/s  {left} left  {note}"
