"""The upload of a run's small files to a URL."""

import contextlib
import shutil
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dalle_jax import storage
from dalle_jax.storage import Place


class UploadBuffer:
    """The folder for metrics, events and images: the run folder itself, or a local buffer if the run folder is a URL.

    Objects at a URL cannot be appended to, so ``metrics.jsonl`` and the TensorBoard events grow in the buffer and are
    uploaded whole. Uploads run in the background, whenever there is new content and the last upload has finished. An
    upload is also made before every commit of a checkpoint. No checkpoint is therefore newer than the metrics next to
    it, and a killed run loses only metrics that the resumed run writes again.
    """

    def __init__(self, out: Place, resumed: tuple[str, ...] = ()):
        """Open the buffer; the files ``resumed`` are downloaded if they exist, since a resumed run appends to them."""
        self._url = out if storage.is_remote(out) else None
        self.folder = Path(out) if self._url is None else Path(tempfile.mkdtemp(prefix="dalle_jax-"))
        self._sent: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._sending: Future[None] | None = None
        if self._url is not None:
            for name in resumed:
                with contextlib.suppress(FileNotFoundError):
                    storage.download(self._url / name, self.folder / name)
                    self._sent[name] = self._status(name)

    def send(self) -> None:
        """Start an upload of new content in the background, unless an upload is running.

        If the last upload failed, raise its error.
        """
        if self._url is None or (self._sending is not None and not self._sending.done()):
            return
        if self._sending is not None:
            self._sending.result()
        self._sending = self._thread.submit(self.send_now)

    def send_now(self) -> None:
        """Upload new content and wait for it."""
        if self._url is None:
            return
        with self._lock:
            for name in storage.files(self.folder):
                now = self._status(name)
                if self._sent.get(name) != now:
                    storage.write(self._url / name, (self.folder / name).read_bytes())
                    self._sent[name] = now

    def close(self) -> None:
        """Upload all content that is not uploaded yet, and delete the buffer."""
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
