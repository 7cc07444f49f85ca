"""Expansion of paths in a config: files, folders, glob patterns and braces, on this machine or behind URLs."""

import glob
import os
import re
from collections.abc import Sequence

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import DataFile, find_file, is_web

MAX_NAMES = 500_000
"""Largest number of names from one pattern. A mistake such as {0..9999999999} would otherwise fill the memory."""

_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_paths(patterns: Sequence[str], suffixes: Sequence[str]) -> tuple[str, ...]:
    """Return the full paths or URLs of all files that ``patterns`` match, sorted and without duplicates.

    A pattern is one of:

    - a file;
    - a folder: all files in and below it that end in one of ``suffixes``, in capitals too;
    - a glob pattern with ``*``, ``?``, ``[a-c]``, or ``**/`` for any folders;
    - any of these with braces, ``{000..127}`` and ``{a,b}``.

    Folders and globs do not work behind https://. Folders and globs skip names that begin with a dot.

    Raises one UserError that lists each pattern, and each name from braces, for which there is no file.
    """
    found: set[str] = set()
    missing = []
    for pattern in patterns:
        for one in expand_braces(pattern):
            files = _files(one, suffixes)
            found.update(files)
            if not files:
                missing.append(one if one == pattern else f"{one} (of {pattern})")
    if missing or not found:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        hint = (
            "; if the numbers of the files have gaps, write * instead of {…}"
            if any("(of " in one for one in missing)
            else ""
        )
        expected = f"files, or folders with {' or '.join(suffixes)} in them"
        raise UserError(f"expected {expected}; found nothing for {shown or 'an empty list'}{hint}")
    return tuple(sorted(found))


def find_files(patterns: Sequence[str], suffixes: Sequence[str]) -> list[DataFile]:
    """Look up all files that ``patterns`` match. Raises UserError as ``expand_paths`` does."""
    return [find_file(name) for name in expand_paths(patterns, suffixes)]


def expand_braces(pattern: str) -> list[str]:
    """Expand a pattern's braces as a shell does: ``{000..127}`` keeps its zeros, and braces may nest.

    Braces around a single word stay as they are. Raises UserError for too many names.
    """
    texts, changed = [pattern], True
    while changed:
        following, changed = [], False
        for text in texts:
            choices = _first_choice(text)
            changed = changed or bool(choices)
            following += choices or [text]
            if len(following) > MAX_NAMES:
                raise _too_many(pattern)
        texts = following
    return list(dict.fromkeys(texts))


def _first_choice(text: str) -> list[str]:
    """Return one text for each alternative of the first innermost braces.

    The list is empty for a text without braces.
    """
    for match in _INNERMOST.finditer(text):
        if words := _alternatives(match[1]):
            return [text[: match.start()] + word + text[match.end() :] for word in words]
    return []


def _alternatives(inside: str) -> list[str]:
    """Return the alternatives inside braces, or an empty list for a single word."""
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        if abs(last - first) >= MAX_NAMES:
            raise _too_many("{" + inside + "}")
        padded = any(len(text) > 1 and text.startswith("0") for text in found.groups())
        width = max(map(len, found.groups())) if padded else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return inside.split(",") if "," in inside else []


def _too_many(pattern: str) -> UserError:
    return UserError(f"{pattern}: expected braces that expand to at most {MAX_NAMES:,} names")


def _files(pattern: str, suffixes: Sequence[str]) -> list[str]:
    """Return the files that a pattern without braces matches."""
    if is_web(pattern):
        if "*" in pattern:
            raise UserError(f"{pattern}: expected full names or braces, because a web server cannot list its files")
        return [pattern]
    if "://" in pattern:
        return _files_behind_url(pattern, suffixes)
    path = os.path.abspath(pattern)
    if os.path.isdir(path):
        return _below(path, suffixes)
    if os.path.exists(path):
        return [path]
    matches = [os.path.abspath(match) for match in glob.glob(pattern, recursive=True)]
    return [match for match in matches if os.path.isfile(match)]


def _files_behind_url(pattern: str, suffixes: Sequence[str]) -> list[str]:
    place = storage.place(pattern)
    if glob.has_magic(pattern):
        return storage.glob_objects(place)
    try:
        below = storage.files(place)
    except FileNotFoundError:
        return []
    if below.keys() <= {"", pattern.partition("://")[2]}:  # stores list an object as if it were its own folder
        return [pattern] if below else []
    top = pattern.rstrip("/")
    return [f"{top}/{name}" for name in below if name.lower().endswith(tuple(suffixes)) and not _hidden(name)]


def _below(folder: str, suffixes: Sequence[str]) -> list[str]:
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = (name for name in names if name.lower().endswith(tuple(suffixes)) and not _hidden(name))
        found += [os.path.join(top, name) for name in wanted]
    return found


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
