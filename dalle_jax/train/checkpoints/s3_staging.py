"""Local staging of checkpoints on s3://, which Orbax cannot read or write.

Orbax 0.12 writes to folders and to gs://, and refuses s3:// ("Checkpoint path should be absolute"). A checkpoint is
therefore written to a local folder and uploaded file by file before the local commit. Its commit file is uploaded last;
without it the checkpoint is incomplete. The folder for temporary files (``TMPDIR``) needs room for two checkpoints. All
of a checkpoint must be on one machine, so runs of several processes are not supported.
"""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etils import epath

from dalle_jax import storage
from dalle_jax.train.checkpoints import checksums

THREADS = 8
"""Number of files transferred at the same time."""


class S3Staging:
    """The checkpoints at one URL, and the folder ``local`` with copies of those that are read or written."""

    def __init__(self, url: epath.Path):
        self._url = url
        self.local = Path(tempfile.mkdtemp(prefix="dalle_jax-"))

    def damage(self, path: epath.Path, needed: Callable[[str], bool] | None = None) -> str | None:
        """Download the needed files of a checkpoint. Return a description of its damage, or None if it is intact."""
        here = self.local / path.name
        shutil.rmtree(here, ignore_errors=True)
        names = [name for name in storage.files(path) if needed is None or needed(name)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: storage.download(path / name, here / name), names))
        found = checksums.damage(here, needed)
        if found is not None:
            shutil.rmtree(here, ignore_errors=True)
        return found

    def store(self, step: int, written: Path) -> None:
        """Upload the checkpoint in the folder ``written``, its commit file last."""
        target = self._url / str(step)
        storage.remove(target, first=checksums.COMMIT_FILE)  # left by a killed process
        names = storage.files(written).keys() - {checksums.COMMIT_FILE}
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: storage.upload(written / name, target / name), names))
        storage.write(target / checksums.COMMIT_FILE, b"whole\n")

    def retain(self, steps: list[int], keep: int, keep_every: int | None) -> None:
        """Delete the checkpoints of ``steps``, except the newest ``keep`` and the multiples of ``keep_every``."""
        for step in steps[:-keep]:
            if keep_every is None or step % keep_every:
                storage.remove(self._url / str(step), first=checksums.COMMIT_FILE)

    def close(self) -> None:
        """Delete the local folder."""
        shutil.rmtree(self.local, ignore_errors=True)
