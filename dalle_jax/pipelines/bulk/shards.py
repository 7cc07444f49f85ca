"""The output folder of a bulk job: finished shards, and the shard that is being written.

A shard is a tar and a parquet file, named as img2dataset names them. Both are written aside and renamed when they are
whole. ``00000_stats.json`` is written last: a shard without it is drawn again.
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.bulk.job import MANIFEST, BulkJob
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_object, read_file

WRITING = ".writing-"
STATS = "_stats.json"
READERS = 16
"""Number of stats files that are read at once."""


def shard_name(number: int) -> str:
    """Return the name of a shard, such as 00042."""
    return f"{number:05d}"


class BulkFolder:
    """The output folder of a job, local or at a URL, as one of several processes writes it."""

    def __init__(self, place: Place, job: BulkJob, process: int = 0) -> None:
        self._place, self._job = place, job
        if storage.is_remote(place):
            self._aside: Path | None = None
        else:  # unique, since a process of a killed run may still be writing
            self._aside = Path(place) / f"{WRITING}{process}-{uuid.uuid4().hex[:8]}"

    def begin(self) -> None:
        """Write the manifest, or compare an existing one, and remove temporary files of killed processes.

        The first process calls this before any process writes. Raises UserError if the folder has other content.
        """
        manifest = self._place / MANIFEST
        if storage.exists(manifest):
            self.compare()
        elif others := self._other_files():
            raise UserError(
                f"{self._place}: expected an empty folder, or one of an earlier bulk job; found {', '.join(others[:3])}"
            )
        else:
            storage.write_bytes(manifest, self._job.to_json())
        if self._aside is not None:
            for left in self._aside.parent.glob(f"{WRITING}*"):
                shutil.rmtree(left, ignore_errors=True)

    def compare(self) -> None:
        """Compare the manifest with this job. Raises UserError that names each difference."""
        if changed := self._job.differences(BulkJob.read(self._place / MANIFEST)):
            raise UserError(
                f"{self._place} holds images of a different job: {'; '.join(changed)}. "
                "Choose a different --out, or undo the change"
            )

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not finished."""
        sizes, numbers = storage.files(self._place), range(self._job.shards)
        with ThreadPoolExecutor(READERS) as pool:
            whole = list(pool.map(lambda number: self._is_whole(number, sizes), numbers))
        return [number for number in numbers if not whole[number]]

    def temporary(self) -> Path:
        """Return a new folder on this machine for files that are not whole yet; on the output's disk if it is local."""
        if self._aside is None:
            return Path(tempfile.mkdtemp(prefix="dalle_jax-"))
        self._aside.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._aside))

    def commit(self, number: int, folder: Path, counts: dict[str, int]) -> None:
        """Move the whole tar and parquet file of a shard into the output, then write its stats, and remove ``folder``.

        Raises UserError if the disk is full.
        """
        name = shard_name(number)
        files = {}
        try:
            for file in (f"{name}.tar", f"{name}.parquet"):
                path = folder / file
                files[file] = {"bytes": path.stat().st_size, "sha256": _synced_sha256(path)}
                if storage.is_remote(self._place):
                    storage.upload(path, self._place / file)
                else:
                    os.replace(path, Path(self._place) / file)
            stats = {**counts, "status_dict": {"success": counts["count"]}, "files": files}
            storage.write(self._place / (name + STATS), (json.dumps(stats, indent=1) + "\n").encode())
        except OSError as error:
            raise storage.cannot_write(self._place / name, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove this process's temporary files."""
        if self._aside is not None:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _is_whole(self, number: int, sizes: dict[str, int]) -> bool:
        """Return whether the stats of a shard name the sizes that its files have."""
        name = shard_name(number)
        if name + STATS not in sizes:
            return False
        try:
            files = parse_object(read_file(self._place / (name + STATS)))["files"]
            return bool(files) and all(sizes.get(file) == one["bytes"] for file, one in files.items())
        except (ValueError, KeyError, TypeError, AttributeError, UserError):
            return False

    def _other_files(self) -> list[str]:
        try:
            names = storage.files(self._place)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.split("/")[0] != ".lock" and not name.startswith(WRITING))


def _synced_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, after its content has reached the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        while chunk := stream.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
