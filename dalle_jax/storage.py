"""Where runs and models lie: a folder of this machine, or one behind a ``gs://`` or ``s3://`` URL.

Behind a URL there are objects, not files: a put is whole or not there, nothing is appended to, and a folder is only
the beginning of names, so to rename one is to copy all of it. Credentials and endpoints are those that the clients of
Google and Amazon find by themselves.
"""

import contextlib
import errno
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from dalle_jax.config.errors import UserError

Place: TypeAlias = Path | epath.Path
"""A folder or a file: ``pathlib.Path`` on this machine, ``etils.epath.Path`` (nearly the same methods) behind a URL."""

PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
"""For each kind of URL the package that it needs, and the extra of ours that installs it."""

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})
"""Errors of link(2) on a file system that has no hard links, or allows none."""

CLIENTS = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests", "s3fs", "urllib3")
"""Libraries whose errors are those of the network, the bucket or the credentials."""


def place(name: str | os.PathLike[str]) -> Place:
    """A path as this program uses it. Raises UserError for a URL of another kind and for a package that is missing."""
    text = os.fspath(name)
    if "://" not in text:
        return name if isinstance(name, Path) else Path(text)
    scheme = text.partition("://")[0]
    if scheme not in PACKAGES:
        raise UserError(f"{text}: expected a folder, or a URL of {' or '.join(f'{one}://' for one in PACKAGES)}")
    package, extra = PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{text}: needs the package {package}; install it with: pip install 'dalle-jax[{extra}]'")
    return epath.Path(text)


def reachable(name: str | os.PathLike[str]) -> Place:
    """``place``, after a look at the bucket of a URL: UserError with one line where there is none, or no way in."""
    found = place(name)
    if is_remote(found):
        with said_in_one_line(found):
            try:
                _system(found).ls(_bucket(found))
            except FileNotFoundError as error:
                raise OSError(f"no such bucket: {error}") from error
    return found


def is_remote(place: Place) -> bool:
    """Whether a URL leads there."""
    return "://" in os.fspath(place)


def absolute(place: Place) -> Place:
    """A folder's full path; a URL is one."""
    return place if is_remote(place) else place.absolute()


def files(folder: Place) -> dict[str, int]:
    """Every file below a folder, by its path in it, and its bytes."""
    if is_remote(folder):
        return {name: info["size"] for name, info in _objects(folder).items()}
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder)] = os.path.getsize(path)
    return found


def stored_checksums(folder: Place) -> dict[str, str]:
    """What the store itself keeps as checksum (CRC-32C at Google, ETag at Amazon) of each object below a folder."""
    return {name: str(info.get("crc32c") or info.get("ETag")) for name, info in _objects(folder).items()}


def matching(pattern: Place) -> list[str]:
    """The URLs of the objects that a pattern with ``*``, ``?`` or ``[`` names."""
    with said_in_one_line(pattern):
        found = _system(pattern).glob(os.fspath(pattern), detail=True)
    scheme = os.fspath(pattern).partition("://")[0]
    return [f"{scheme}://{name}" for name, info in found.items() if info["type"] == "file"]


def described(file: Place) -> tuple[int, str]:
    """The bytes of a file, and a text that is another when it is written again: its time, its checksum in a store."""
    if not is_remote(file):
        about = os.stat(file)
        return about.st_size, str(about.st_mtime_ns)
    with said_in_one_line(file):
        system = _system(file)
        system.invalidate_cache()
        info = system.info(os.fspath(file))
    stamps = (info.get(name) for name in ("crc32c", "ETag", "LastModified", "updated"))
    return info["size"], str(next((stamp for stamp in stamps if stamp), ""))


def read_part(file: Place, start: int, length: int) -> bytes:
    """``length`` bytes of an object from ``start`` on, fewer where it ends."""
    if length == 0:
        return b""
    with said_in_one_line(file):
        return _system(file).cat_file(os.fspath(file), start=start, end=start + length)


def write(file: Place, content: bytes) -> None:
    """Writes a file whole or not at all: aside and renamed on this machine, one put behind a URL. Makes folders."""
    if is_remote(file):
        with said_in_one_line(file):
            _system(file).pipe_file(os.fspath(file), content)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, file)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
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
    with said_in_one_line(file):
        try:
            _system(file).pipe_file(os.fspath(file), content, mode="create")
            return True
        except FileExistsError:
            return False
        except Exception as error:
            if not (isinstance(error, OSError) or _of_client(error)):
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
    with said_in_one_line(file):
        return _system(file).cat_file(os.fspath(file))


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
    with said_in_one_line(file), contextlib.suppress(FileNotFoundError):
        _system(file).rm_file(os.fspath(file))


def send(source: Path, target: epath.Path) -> None:
    """Copies a file of this machine, of any size, to a URL."""
    with said_in_one_line(target):
        _system(target).put_file(os.fspath(source), os.fspath(target))


def fetch(source: epath.Path, target: Path) -> None:
    """Copies an object to a file of this machine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with said_in_one_line(source):
        _system(source).get_file(os.fspath(source), os.fspath(target))


def rename(folder: Place, target: Place) -> None:
    """Renames a folder. Behind a URL that copies every object of it, in the store, and deletes the old ones."""
    if not is_remote(folder):
        folder.rename(target)
        return
    with said_in_one_line(folder):
        for name in files(folder):
            _system(folder).cp_file(os.fspath(folder / name), os.fspath(target / name))
            _system(folder).rm_file(os.fspath(folder / name))


def remove(folder: Place, first: str) -> None:
    """Removes a folder with all that is in it, the file named ``first`` before the rest."""
    if not is_remote(folder):
        (Path(folder) / first).unlink(missing_ok=True)
        shutil.rmtree(folder)
        return
    with said_in_one_line(folder):
        for name in sorted(files(folder), key=lambda name: name != first):
            _system(folder).rm_file(os.fspath(folder / name))


@contextlib.contextmanager
def said_in_one_line(place: Place) -> Iterator[None]:
    """Turns what a client of a store raises into a UserError; that a file is not there stays FileNotFoundError."""
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:
        if not is_remote(place) or not (isinstance(error, OSError) or _of_client(error)):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"cannot use {place} ({reason}); check the bucket's name, the network and the credentials"
        ) from error


def _of_client(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in CLIENTS


def _system(place: Place) -> Any:
    """The fsspec file system of a URL; fsspec keeps one for each kind."""
    import fsspec

    return fsspec.filesystem(os.fspath(place).partition("://")[0])


def _bucket(place: Place) -> str:
    return os.fspath(place).partition("://")[2].split("/")[0]


def _objects(folder: Place) -> dict[str, dict[str, Any]]:
    """Every object below a URL as the store lists it now, by its name from there on."""
    system = _system(folder)
    with said_in_one_line(folder):
        system.invalidate_cache()  # others write there too, tensorstore among them
        top = os.fspath(folder).partition("://")[2].rstrip("/") + "/"
        found = system.find(os.fspath(folder), detail=True)
    return {name.removeprefix(top): info for name, info in found.items() if info["type"] == "file"}
