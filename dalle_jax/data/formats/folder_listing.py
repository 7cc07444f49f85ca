"""Listing of a folder, on this machine or behind a URL: its files, their sizes, and links that cannot be used."""

import os
from pathlib import Path

from etils import epath

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord


def list_folder(top: Path | epath.Path) -> tuple[dict[str, int], list[BadRecord]]:
    """List all files in and below a folder. Return their sizes by relative path, and the entries that cannot be used.

    Names that begin with a dot are left out. A link to a file within the folder counts as a file; links to folders are
    not followed. Raises UserError if the folder does not exist.
    """
    if storage.is_remote(top):
        found = storage.files(top)
        return {name: size for name, size in found.items() if not any(p.startswith(".") for p in name.split("/"))}, []
    if not os.path.isdir(top):
        raise UserError(f"{top}: expected a folder, found {'a file' if os.path.exists(top) else 'nothing'}")
    sizes: dict[str, int] = {}
    problems: list[BadRecord] = []
    real = os.path.realpath(top)
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(os.path.join(top, folder)) as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                elif fault := _fault(entry, real):
                    problems.append(BadRecord(name.encode(errors="backslashreplace").decode(), *fault))
                elif entry.is_file():
                    sizes[name] = entry.stat().st_size
    return sizes, sorted(problems, key=lambda problem: problem.key)


def _fault(entry: os.DirEntry[str], real: str) -> tuple[str, str] | None:
    """Return the kind of an entry's fault and the reason, or None for an entry that can be used.

    ``real`` is the resolved path of the listed folder.
    """
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "name not utf-8", "its file name is not UTF-8; rename it"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.commonpath([real, target]) != real:
            return "path outside", "is a link that leads out of the folder"
        if os.path.isdir(target):
            return None
    try:
        is_file = entry.is_file()
    except OSError:  # a link that leads to itself
        is_file = False
    return None if is_file else ("not a file", "is a device, a pipe, a socket or a broken link")


def read_whole(top: Path | epath.Path, name: str, size: int) -> bytes:
    """Read a file of a listed folder. Raises UserError if it cannot be read or its size is not ``size`` any more."""
    path = top / name
    try:
        if storage.is_remote(path):
            content = storage.read_range(path, 0, size)
        else:
            with open(path, "rb", buffering=0) as file:
                content = file.read(size + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or 'no such file'}") from error
    if len(content) != size:
        raise UserError(f"{path} was changed while it was in use; start again")
    return content
