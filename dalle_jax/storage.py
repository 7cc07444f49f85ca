"""Files and folders, local or at a ``gs://`` or ``s3://`` URL.

A URL refers to objects in a store. A put is atomic, and an object cannot be appended to. A folder is only a prefix of
object names, so renaming a folder copies all of its objects. The client libraries of Google and Amazon find credentials
and endpoints themselves.
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

from dalle_jax.config.errors import UserError, install_hint

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Place: TypeAlias = Path | epath.Path
"""A folder or a file: a local ``pathlib.Path``, or for URLs an ``etils.epath.Path`` with nearly the same methods."""

PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""URL scheme to the package that it requires and the extra of dalle-jax that installs it."""

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})
"""Errors of link(2) on a file system that lacks or forbids hard links."""

CLIENTS = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")
"""Client libraries whose errors concern the network, the bucket or the credentials."""


def place(name: str | os.PathLike[str]) -> Place:
    """Return the path of a file name or URL. Raise ``UserError`` for an unknown URL scheme or a missing package."""
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
        raise UserError(f"{text}: the package {package} is not installed; {install_hint(extra)}")
    return epath.Path(text)


def reachable(name: str | os.PathLike[str]) -> Place:
    """Return ``place(name)``. Raise ``UserError`` if the bucket of a URL is missing or not accessible."""
    found = place(name)
    if is_remote(found):
        with store_errors(found):
            try:
                _file_system(found).ls(_bucket(found))
            except FileNotFoundError as error:
                raise OSError(f"no such bucket: {error}") from error
    return found


def is_remote(place: Place) -> bool:
    """Return whether the path is a URL."""
    return "://" in os.fspath(place)


def absolute(place: Place) -> Place:
    """Return the absolute path; a URL is absolute already."""
    return place if is_remote(place) else place.absolute()


def files(folder: Place) -> dict[str, int]:
    """Return the size in bytes of each file below a folder, by relative path."""
    if is_remote(folder):
        return {name: found.size for name, found in _objects(folder).items()}
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder)] = os.path.getsize(path)
    return found


def stored_checksums(folder: Place) -> dict[str, str]:
    """Return the store's own checksum of each object below a folder, by relative path.

    It is a CRC-32C at Google and an ETag at Amazon.
    """
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
    """Read up to ``length`` bytes of an object, beginning at byte ``start``."""
    if length == 0:
        return b""
    with store_errors(file):
        return _file_system(file).cat_file(os.fspath(file), start=start, end=start + length)


def write(file: Place, content: bytes) -> None:
    """Write a file atomically, so that a reader never sees a part of it. Create missing folders.

    A local file is written under a temporary name and then renamed. An object is written by one put.
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
    """Write a file atomically unless it exists. Return whether this call wrote it.

    A local file is created by a hard link, or by an exclusive open if the file system lacks hard links. An object is
    created by a conditional put. If the store does not support the condition, two callers may both write, and the last
    write wins. A caller that must be the only one should read the file back after a while.
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
    """Create a file on a disk without hard links. A reader may see the file while it is still empty."""
    try:
        with file.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True


def read(file: Place) -> bytes:
    """Return the content of a file, bypassing caches. Raise ``FileNotFoundError`` if it does not exist."""
    if not is_remote(file):
        return Path(file).read_bytes()
    with store_errors(file):
        return _file_system(file).cat_file(os.fspath(file))


def exists(file: Place) -> bool:
    """Return whether a small file exists.

    It reads the file, because the client of a store may have cached a stale listing.
    """
    try:
        read(file)
    except FileNotFoundError:
        return False
    return True


def remove_file(file: Place) -> None:
    """Remove a file if it exists."""
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


def check_output(folder: Place) -> None:
    """Check that a folder for results can be created or written, before the work that fills it. Nothing is written.

    Raise ``UserError`` if ``folder``, or the nearest of its parents that exists, is a file or not writable. A folder
    behind a URL is not checked.
    """
    if not isinstance(folder, Path):
        return
    nearest = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not nearest.is_dir():
        raise cannot_write(folder, NotADirectoryError(errno.ENOTDIR, f"{nearest} is a file"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise cannot_write(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def refuse_foreign_links(folder: Place) -> None:
    """Raise ``UserError`` for a link of another user, in a folder that others may write to, at or below ``folder``.

    A command would write through it to a place that the other user chose. Folders behind URLs have no links.
    """
    if not isinstance(folder, Path):
        return
    trusted = {os.geteuid(), 0}
    if folder.is_symlink() and _is_open_to_others(folder.absolute().parent, trusted):
        _check_link(folder, trusted)
    waiting = [folder] if folder.is_dir() and _is_open_to_others(folder, trusted) else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    _check_link(Path(entry.path), trusted)
                elif entry.is_dir() and _is_open_to_others(Path(entry.path), trusted):
                    waiting.append(Path(entry.path))


def _is_open_to_others(folder: Path, trusted: set[int]) -> bool:
    """Return True if users other than root and the own may create files in a folder."""
    status = folder.stat()
    return bool(status.st_mode & 0o022) or status.st_uid not in trusted


def _check_link(link: Path, trusted: set[int]) -> None:
    owner = link.lstat().st_uid
    if owner not in trusted:
        raise UserError(
            f"{link}: expected no link of another user in a folder that others may write to, got one of user {owner} "
            f"to {os.readlink(link)}; remove it, or choose a different folder"
        )


def cannot_write(path: str | Place, error: OSError) -> UserError:
    """Return the error for a full disk, a folder that is not writable, or one that was moved."""
    fixes = {
        errno.EROFS: "make it writable or choose a different folder",
        errno.EACCES: "make it writable or choose a different folder",
        errno.ENOENT: "its folder was moved or deleted; move it back, or repeat the command for its new place",
    }
    fix = fixes.get(error.errno or 0, "free some space or choose a different folder")
    return UserError(f"cannot write {path}: {error.strerror or error}; {fix}")


def upload(source: Path, target: epath.Path) -> None:
    """Copy a local file to a URL. The file may be larger than memory."""
    with store_errors(target):
        _file_system(target).put_file(os.fspath(source), os.fspath(target))


def download(source: epath.Path, target: Path) -> None:
    """Copy an object to a local file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with store_errors(source):
        _file_system(source).get_file(os.fspath(source), os.fspath(target))


def rename(folder: Place, target: Place) -> None:
    """Rename a folder. For a URL, copy each object within the store and delete the original."""
    if not is_remote(folder):
        folder.rename(target)
        return
    with store_errors(folder):
        for name in files(folder):
            _file_system(folder).cp_file(os.fspath(folder / name), os.fspath(target / name))
            _file_system(folder).rm_file(os.fspath(folder / name))


def remove(folder: Place, first: str) -> None:
    """Remove a folder and its contents, beginning with the file named ``first``."""
    if not is_remote(folder):
        (Path(folder) / first).unlink(missing_ok=True)
        shutil.rmtree(folder)
        return
    with store_errors(folder):
        for name in sorted(files(folder), key=lambda name: name != first):
            _file_system(folder).rm_file(os.fspath(folder / name))


@contextlib.contextmanager
def store_errors(place: Place) -> Iterator[None]:
    """Convert errors of a store's client, except ``FileNotFoundError``, to ``UserError``."""
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
