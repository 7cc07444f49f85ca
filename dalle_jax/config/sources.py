"""Files, their includes and ``--set`` to one list of bindings in their order, with the macros put in."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dalle_jax.config import syntax
from dalle_jax.config.problems import Problems, Where, near, printable
from dalle_jax.config.syntax import BROKEN, Binding, Include, Macro, Word

MOST_FILES = 100
"""Files read for one config, a file that is included twice counted twice."""

MOST_BYTES = 100_000
"""Of one file: a config is written by hand."""

MOST_PARTS = 10_000
"""Parts of one value after its macros are put in."""

_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass
class Source:
    """Reads one config with everything that it includes."""

    problems: Problems
    read: int = 0
    statements: list[Binding] = field(default_factory=list)

    def file(self, path: Path, within: tuple[str, ...] = (), where: Where | None = None) -> None:
        """Add a file's bindings; ``within`` are the files that include it, ``where`` the line that does."""
        self.read += 1
        text = self._text(path, where or Where(str(path), 1))
        if text is not None:
            self.text(text, str(path), path.parent, (*within, os.path.realpath(path)))

    def text(self, text: str, name: str, folder: Path | None, within: tuple[str, ...] = ()) -> None:
        """Add the bindings of a text called ``name`` whose includes stand in ``folder`` (None: it has no includes)."""
        for statement in syntax.read(text, name, self.problems):
            if isinstance(statement, Include):
                self._include(statement, folder, within)
            else:
                self._add(statement)

    def set(self, argument: str, within: str = "") -> None:
        """Add one ``--set`` of the form ``name=value``; a name may begin with ``within``, the place of this config."""
        name, equals, value = argument.partition("=")
        name = name.strip().removeprefix(within)
        where = Where(f"--set {argument if len(argument) <= 60 else argument[:57] + '...'}", 0)
        if not equals or not _PATH.fullmatch(name):
            self.problems.add(where, "expected name=value, as in --set trainer.steps=10")
            return
        self._add(Binding(name, syntax.word(value.strip()), where))

    def _add(self, binding: Binding) -> None:
        where = replace(binding.where, order=len(self.statements))
        self.statements.append(replace(binding, where=where))

    def _include(self, include: Include, folder: Path | None, within: tuple[str, ...]) -> None:
        where, name = include.where, include.file
        try:
            found = None if folder is None else next((p for p in _places(name, folder) if p.is_file()), None)
        except (OSError, ValueError):  # too long, or with characters that no file name has
            found = None
        if folder is None:
            problem = "this text stands in no folder and can include nothing"
        elif found is None:
            places = _places(printable(name), folder)
            looked = ", ".join(dict.fromkeys(os.path.dirname(p) or "." for p in places))
            problem = f"no such file (looked in {looked}){_near_files(places)}"
        elif (real := os.path.realpath(found)) in within:
            circle = " -> ".join([*map(os.path.basename, within[within.index(real) :]), found.name])
            problem = f"a circle of includes: {circle}"
        elif self.read >= MOST_FILES:
            problem = f"more than {MOST_FILES} files are included"
        else:
            self.file(found, within, where)
            return
        self.problems.add(where, f"include {syntax.show(name)}: {problem}")
        self.problems.incomplete = True

    def _text(self, path: Path, where: Where) -> str | None:
        """The file's text; None, and a problem, if it is no readable text file of a config's size."""
        said = "" if where.file == str(path) else f"include {syntax.show(str(path))}: "
        try:
            if path.is_dir():
                problem = "a folder; expected a config file"
            elif not path.exists():
                problem = f"no such file{_near_files([path])}"
            elif not path.is_file() or path.stat().st_size > MOST_BYTES:
                problem = f"expected a text file of at most {MOST_BYTES // 1000} kB"
            else:
                data = path.read_bytes()
                return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where, said = Where(str(path), data.count(b"\n", 0, error.start) + 1), ""
            problem = f"byte {error.start} is not UTF-8; save the file as UTF-8 text"
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        self.problems.add(where, said + problem)
        self.problems.incomplete = True
        return None


def find(name: str | Path) -> Path:
    """A file named on the command line or by a config: as it stands, else among the package's configs.

    A name that is found nowhere comes back as it stands, for the reader of the file to complain of.
    """
    places = [Path(name), *(place / name for place in _OURS)]
    try:
        return next((place for place in places if place.exists()), places[0])
    except (OSError, ValueError):  # too long, or with characters that no file name has
        return places[0]


_OURS = (Path(__file__).parents[2] / "configs", Path(sys.prefix) / "share" / "dalle_jax" / "configs")


def _places(name: str, folder: Path) -> list[Path]:
    """Where an include is looked for: its file's folder, the folder ``configs`` above, the package's configs."""
    above = [p for p in (folder, *folder.absolute().parents) if p.name == "configs"][:1]
    return [Path(os.path.normpath(place / name)) for place in (folder, *above, *_OURS)]


def _near_files(places: Sequence[Path]) -> str:
    """A hint at files with like names beside the one that is missing."""
    try:
        names = [one.name for place in places if place.parent.is_dir() for one in place.parent.glob("*.gin")]
    except (OSError, ValueError):
        return ""
    return near(places[0].name, names)


@dataclass
class Macros:
    """The macros of one config; a macro has the value of its last definition wherever it is used."""

    definitions: dict[str, Binding]
    problems: Problems
    used: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    kept: list[tuple[Any, ...]] = field(default_factory=list)

    def value(self, value: Any, where: Where, open_: tuple[str, ...] = (), depth: int = 0) -> Any:
        """The value with its macros put in; ``BROKEN``, and a problem reported once, where that cannot be."""
        if isinstance(value, Word):
            inner = self.value(value.value, where, open_, depth)
            return inner if isinstance(value.value, Macro) else Word(value.text, inner)
        if depth > syntax.DEEPEST:
            self.problems.add(where, f"brackets and macros are nested more than {syntax.DEEPEST} deep")
            return BROKEN
        if isinstance(value, Macro):
            return self._macro(value.name, where, open_, depth)
        if not isinstance(value, tuple | list):
            return value
        parts = [self.value(part, where, open_, depth + 1) for part in value]
        size = 1 + sum(self.sizes.get(id(part), 1) for part in parts)
        if size > MOST_PARTS:
            self.problems.add(where, f"a value of more than {MOST_PARTS} parts")
            return BROKEN
        if any(part is BROKEN for part in parts):
            return BROKEN
        whole = tuple(parts)
        self.sizes[id(whole)] = size
        self.kept.append(whole)  # alive, so that its id stays its own
        return whole

    def _macro(self, name: str, where: Where, open_: tuple[str, ...], depth: int) -> Any:
        self.used.add(name)
        if name in self.values:
            return self.values[name]
        definition = self.definitions.get(name)
        if name in open_:
            circle = " -> ".join(f"%{one}" for one in [*open_[open_.index(name) :], name])
            self.problems.add(where, f"a circle of macros: {circle}")
            return BROKEN
        if definition is None:
            hint = near(name, self.definitions)
            self.problems.add(where, f"%{name} is defined nowhere{hint}{self.problems.unless}")
            return BROKEN
        found = self.value(definition.value, definition.where, (*open_, name), depth + 1)
        self.values[name] = found
        return found


def bindings(source: Source) -> Iterator[Binding]:
    """The source's bindings without its macros, whose values are put in."""
    defined = [one for one in source.statements if _MACRO.fullmatch(one.name)]
    macros = Macros({one.name: one for one in defined}, source.problems)
    for one in source.statements:
        is_macro = _MACRO.fullmatch(one.name) is not None
        value = macros.value(one.value, one.where, (one.name,) if is_macro else ())
        if not is_macro:
            yield replace(one, value=value)
    for one in defined:
        if one.name not in macros.used and not source.problems.incomplete:
            hint = near(one.name, macros.used - {one.name})
            source.problems.add(one.where, f"the macro {one.name} is used nowhere{hint}")
