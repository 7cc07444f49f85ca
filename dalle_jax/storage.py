"""Files and folders, local or behind a ``gs://`` or ``s3://`` URL.

A URL names objects in a store rather than files. A put is atomic and nothing can be appended. A folder is only a prefix
of object names, so renaming one copies all of its objects. The client libraries of Google and Amazon find credentials
and endpoints by themselves.
"""

import contextlib
import errno
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from etils import epath

from dalle_jax.config.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Place: TypeAlias = Path | epath.Path
"""A folder or a file: a local ``pathlib.Path``, or for URLs an ``etils.epath.Path`` with nearly the same methods."""

PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""For each URL scheme the package that it needs, and the extra of dalle-jax that installs it."""

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})
"""Errors of link(2) on a file system that has no hard links, or allows none."""

CLIENTS = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")
"""Libraries whose errors come from the network, the bucket or the credentials."""


def place(name: str | os.PathLike[str]) -> Place:
    """Return the path of a file name or URL. Raises ``UserError`` for other URL schemes and for missing packages."""
    text = os.fspath(name)
    if "://" not in text:
        return name if isinstance(name, Path) else Path(text)
    scheme = text.partition("://")[0]
    if scheme not in PACKAGES:
        raise UserError(
            f"{text}: expected a path, or a URL that begins with {' or '.join(f'{one}://' for one in PACKAGES)}"
        )
    package, extra = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{text}: expected the package {package}, found none; install it: pip install 'dalle-jax[{extra}]'"
        )
    return epath.Path(text)


def reachable(name: str | os.PathLike[str]) -> Place:
    """Return ``place(name)`` after checking a URL's bucket. Raises ``UserError`` if it is missing or not accessible."""
    found = place(name)
    if is_remote(found):
        with store_errors(found):
            try:
                _file_system(found).ls(_bucket(found))
            except FileNotFoundError as error:
                raise OSError(f"no such bucket: {error}") from error
    return found


def is_remote(place: Place) -> bool:
    """Return True for a URL."""
    return "://" in os.fspath(place)


def absolute(place: Place) -> Place:
    """Return the absolute path; a URL is absolute already."""
    return place if is_remote(place) else place.absolute()


def files(folder: Place) -> dict[str, int]:
    """List all files below a folder: relative path to size in bytes."""
    if is_remote(folder):
        return {name: found.size for name, found in _objects(folder).items()}
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder)] = os.path.getsize(path)
    return found


def stored_checksums(folder: Place) -> dict[str, str]:
    """Return the store's own checksum of each object below a folder: CRC-32C at Google, ETag at Amazon."""
    return {name: found.checksum for name, found in _objects(folder).items()}


def glob_objects(pattern: Place) -> list[str]:
    """List the URLs of the objects that match a pattern with ``*``, ``?`` or ``[``."""
    with store_errors(pattern):
        found = _file_system(pattern).glob(os.fspath(pattern), detail=True)
    scheme = os.fspath(pattern).partition("://")[0]
    return [f"{scheme}://{name}" for name, info in found.items() if info["type"] == "file"]


def size_and_version(file: Place) -> tuple[int, str]:
    """Return a file's size in bytes and a version stamp that changes when the file does.

    The stamp is a local file's modification time, or an object's checksum.
    """
    if not is_remote(file):
        stat = os.stat(file)
        return stat.st_size, str(stat.st_mtime_ns)
    with store_errors(file):
        system = _file_system(file)
        system.invalidate_cache()
        info = system.info(os.fspath(file))
    stamps = (info.get(name) for name in ("crc32c", "ETag", "LastModified", "updated"))
    return info["size"], str(next((stamp for stamp in stamps if stamp), ""))


def read_range(file: Place, start: int, length: int) -> bytes:
    """Read ``length`` bytes of an object from ``start`` on, fewer if it ends before."""
    if length == 0:
        return b""
    with store_errors(file):
        return _file_system(file).cat_file(os.fspath(file), start=start, end=start + length)


def write(file: Place, content: bytes) -> None:
    """Write a file atomically, so that no reader sees half of it. Missing folders are created.

    A local file is written under a temporary name, then renamed. An object is one put.
    """
    if is_remote(file):
        with store_errors(file):
            _file_system(file).pipe_file(os.fspath(file), content)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def create(file: Place, content: bytes) -> bool:
    """Write a file whole unless one of its name exists; return whether this call wrote it.

    On this machine the file system decides: a hard link, or an exclusive open where it has none. Behind a URL
    the store decides, by a conditional put. A store that ignores or refuses the condition may let two callers
    write who both found no file; the last one wins, so a caller who must be alone reads the file back after a while.
    """
    if not is_remote(file):
        return _create_here(Path(file), content)
    if exists(file):  # for stores that ignore the condition
        return False
    with store_errors(file):
        try:
            _file_system(file).pipe_file(os.fspath(file), content, mode="create")
            return True
        except FileExistsError:
            return False
        except Exception as error:
            if not (isinstance(error, OSError) or _is_client_error(error)):
                raise
            if exists(file):
                return False
    write(file, content)
    return True


def _create_here(file: Path, content: bytes) -> bool:
    handle, aside = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(aside, 0o644)
        try:
            os.link(aside, file)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            return _create_by_opening(file, content)
        return True
    finally:
        Path(aside).unlink(missing_ok=True)


def _create_by_opening(file: Path, content: bytes) -> bool:
    """Create a file on a disk without hard links: a reader may see it before its content is there."""
    try:
        with file.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True


def read(file: Place) -> bytes:
    """Return the content of a file as it is now; FileNotFoundError where there is none."""
    if not is_remote(file):
        return Path(file).read_bytes()
    with store_errors(file):
        return _file_system(file).cat_file(os.fspath(file))


def exists(file: Place) -> bool:
    """Whether a small file is there now, past what the client of a store remembers."""
    try:
        read(file)
    except FileNotFoundError:
        return False
    return True


def remove_file(file: Place) -> None:
    """Remove a file, if it is there."""
    if not is_remote(file):
        Path(file).unlink(missing_ok=True)
        return
    with store_errors(file), contextlib.suppress(FileNotFoundError):
        _file_system(file).rm_file(os.fspath(file))


def write_bytes(path: str | Place, content: bytes) -> None:
    """Write a file as ``write`` does. Raises ``UserError`` if the disk is full or the folder is not writable."""
    try:
        write(place(path), content)
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Place, error: OSError) -> UserError:
    """Return the error for a full disk or a folder that is not writable."""
    return UserError(f"cannot write {path}: {error.strerror or error}; free some space or choose a different folder")


def upload(source: Path, target: epath.Path) -> None:
    """Copy a local file to a URL; it may be larger than memory."""
    with store_errors(target):
        _file_system(target).put_file(os.fspath(source), os.fspath(target))


def download(source: epath.Path, target: Path) -> None:
    """Copy an object to a local file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with store_errors(source):
        _file_system(source).get_file(os.fspath(source), os.fspath(target))


def rename(folder: Place, target: Place) -> None:
    """Rename a folder. Behind a URL, copy each object within the store and delete the old one."""
    if not is_remote(folder):
        folder.rename(target)
        return
    with store_errors(folder):
        for name in files(folder):
            _file_system(folder).cp_file(os.fspath(folder / name), os.fspath(target / name))
            _file_system(folder).rm_file(os.fspath(folder / name))


def remove(folder: Place, first: str) -> None:
    """Remove a folder with its contents, the file named ``first`` before the rest."""
    if not is_remote(folder):
        (Path(folder) / first).unlink(missing_ok=True)
        shutil.rmtree(folder)
        return
    with store_errors(folder):
        for name in sorted(files(folder), key=lambda name: name != first):
            _file_system(folder).rm_file(os.fspath(folder / name))


@contextlib.contextmanager
def store_errors(place: Place) -> Iterator[None]:
    """Convert errors of a store's client to ``UserError``, except ``FileNotFoundError``, which passes through."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        if not is_remote(place) or not (isinstance(error, OSError) or _is_client_error(error)):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"cannot use {place} ({reason}); check the bucket's name, the network and the credentials"
        ) from error


def _is_client_error(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in CLIENTS


def _file_system(place: Place) -> "AbstractFileSystem":
    """Return the fsspec file system of a URL; fsspec caches one for each scheme."""
    import fsspec

    return fsspec.filesystem(os.fspath(place).partition("://")[0])


def _bucket(place: Place) -> str:
    return os.fspath(place).partition("://")[2].split("/")[0]


def _objects(folder: Place) -> dict[str, "_Object"]:
    """List the store's current objects below a URL by relative name."""
    system = _file_system(folder)
    with store_errors(folder):
        system.invalidate_cache()  # tensorstore and other processes write there too
        top = os.fspath(folder).partition("://")[2].rstrip("/") + "/"
        found = system.find(os.fspath(folder), detail=True)
    return {
        name.removeprefix(top): _Object(info["size"], str(info.get("crc32c") or info.get("ETag")))
        for name, info in found.items()
        if info["type"] == "file"
    }


class _Object(NamedTuple):
    size: int
    checksum: str
