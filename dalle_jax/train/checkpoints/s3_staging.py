"""Checkpoints behind URLs to which Orbax cannot write: they are written and read on this machine, and copied.

Orbax 0.12 writes to folders and to gs://, and refuses s3:// ("Checkpoint path should be absolute"). So a checkpoint is
written here, sent file by file before it is committed here, and last of all its marker: without that it is not one.
Room for two checkpoints is needed in the folder for temporary files (``TMPDIR``), and all of a checkpoint on one
machine, so a run of several processes cannot do this.
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
"""Files sent or fetched at once."""


class S3Staging:
    """The checkpoints of one URL, those of them that are needed in ``local``."""

    def __init__(self, url: epath.Path):
        self._url = url
        self.local = Path(tempfile.mkdtemp(prefix="dalle_jax-"))

    def damage(self, path: epath.Path, needed: Callable[[str], bool] | None = None) -> str | None:
        """Fetches a checkpoint, or the files of it that are needed, and says what is wrong with it, if anything is."""
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
        """Sends a checkpoint that lies in the folder ``written``, its marker last."""
        target = self._url / str(step)
        storage.remove(target, first=checksums.COMMIT_FILE)  # what a killed process left
        names = storage.files(written).keys() - {checksums.COMMIT_FILE}
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: storage.upload(written / name, target / name), names))
        storage.write(target / checksums.COMMIT_FILE, b"whole\n")

    def retain(self, steps: list[int], keep: int, keep_every: int | None) -> None:
        """Removes what is neither among the newest ``keep`` of ``steps`` nor of every ``keep_every``-th step."""
        for step in steps[:-keep]:
            if keep_every is None or step % keep_every:
                storage.remove(self._url / str(step), first=checksums.COMMIT_FILE)

    def close(self) -> None:
        """Removes what is on this machine."""
        shutil.rmtree(self.local, ignore_errors=True)
