"""The small files of a run on this machine, and their way to a URL."""

import contextlib
import shutil
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dalle_jax import storage
from dalle_jax.storage import Place


class UploadBuffer:
    """Where a run writes its figures, events and images: the run folder itself, or for a URL a folder in its stead.

    Nothing can be appended to an object behind a URL, so ``metrics.jsonl`` and the TensorBoard events grow in the
    spool and are put whole: in the background whenever there is something new and the last sending is over, and
    before every commit of a checkpoint, so that no checkpoint is newer than the figures beside it. What was sent late
    by a process that was killed is only what the next one, which goes on from the checkpoint, writes again.
    """

    def __init__(self, out: Place, brought: tuple[str, ...] = ()):
        """``brought`` are files that the run goes on with, if they are behind the URL."""
        self._url = out if storage.is_remote(out) else None
        self.folder = Path(out) if self._url is None else Path(tempfile.mkdtemp(prefix="dalle_jax-"))
        self._sent: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._sending: Future[None] | None = None
        if self._url is not None:
            for name in brought:
                with contextlib.suppress(FileNotFoundError):
                    storage.download(self._url / name, self.folder / name)
                    self._sent[name] = self._status(name)

    def send(self) -> None:
        """Begins to send what is new, unless it is still sending; raises what the last sending met."""
        if self._url is None or (self._sending is not None and not self._sending.done()):
            return
        if self._sending is not None:
            self._sending.result()
        self._sending = self._thread.submit(self.send_now)

    def send_now(self) -> None:
        """Sends what is new."""
        if self._url is None:
            return
        with self._lock:
            for name in storage.files(self.folder):
                now = self._status(name)
                if self._sent.get(name) != now:
                    storage.write(self._url / name, (self.folder / name).read_bytes())
                    self._sent[name] = now

    def close(self) -> None:
        """Sends the rest and removes the spool."""
        if self._url is None:
            return
        try:
            self._thread.shutdown()
            self.send_now()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _status(self, name: str) -> tuple[int, int]:
        status = (self.folder / name).stat()
        return status.st_size, status.st_mtime_ns
