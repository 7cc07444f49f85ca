"""Read files, their includes and ``--set`` arguments into one list of bindings, and expand the macros."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dalle_jax.config import syntax
from dalle_jax.config.problems import Location, Problems, did_you_mean, printable
from dalle_jax.config.syntax import UNREADABLE, Binding, Include, Macro, SetValue, Value

MAX_FILES = 100
"""Largest number of files read for one config. A file that is included twice counts twice."""

MAX_BYTES = 100_000
"""Largest file, in bytes. Configs are written by hand."""

MAX_ELEMENTS = 10_000
"""Largest number of elements in one value after macros are expanded, nested elements included."""

_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
IDENTIFIER = r"[A-Za-z_]\w*"
"""Regular expression of one name in a path; "trainer.steps" has two names."""
_PATH = re.compile(rf"{IDENTIFIER}(\.{IDENTIFIER})*")


@dataclass
class ConfigReader:
    """The reader of one config and the files that it includes."""

    problems: Problems
    read: int = 0
    statements: list[Binding] = field(default_factory=list)

    def file(self, path: Path, within: tuple[str, ...] = (), where: Location | None = None) -> None:
        """Add the bindings of a file.

        ``where`` is the location of the include that names the file. ``within`` are the files that include each other
        down to that include, outermost first.
        """
        self.read += 1
        text = self._text(path, where or Location(str(path), 1))
        if text is not None:
            self.text(text, str(path), path.parent, (*within, os.path.realpath(path)))

    def text(self, text: str, name: str, folder: Path | None, within: tuple[str, ...] = ()) -> None:
        """Add the bindings of a text.

        Included files are searched from ``folder``; if it is None, includes are errors.
        """
        for statement in syntax.read(text, name, self.problems):
            if isinstance(statement, Include):
                self._include(statement, folder, within)
            else:
                self._add(statement)

    def set(self, argument: str, within: str = "") -> None:
        """Add the binding of one ``--set`` argument, ``name=value``. The name may have the prefix ``within``."""
        name, equals, value = argument.partition("=")
        name = name.strip().removeprefix(within)
        where = Location(f"--set {argument if len(argument) <= 60 else argument[:57] + '...'}", 0)
        if not syntax.is_utf8(argument):
            self.problems.add(where, "expected text in UTF-8, got other bytes")
            return
        if not equals or not _PATH.fullmatch(name):
            self.problems.add(where, "expected name=value, as in --set trainer.steps=10")
            return
        self._add(Binding(name, syntax.set_value(value.strip()), where))

    def _add(self, binding: Binding) -> None:
        where = replace(binding.where, order=len(self.statements))
        self.statements.append(replace(binding, where=where))

    def _include(self, include: Include, folder: Path | None, within: tuple[str, ...]) -> None:
        where, name = include.where, include.file
        try:
            found = None if folder is None else next((p for p in _places(name, folder) if p.is_file()), None)
        except (OSError, ValueError):  # the name is too long, or has characters that no file name has
            found = None
        if folder is None:
            problem = "this text is not a file, so it cannot include one"
        elif found is None:
            places = _places(printable(name), folder)
            looked = ", ".join(dict.fromkeys(os.path.dirname(p) or "." for p in places))
            problem = f"no such file (looked in {looked}){_similar_files(places)}"
        elif (real := os.path.realpath(found)) in within:
            circle = " -> ".join([*map(os.path.basename, within[within.index(real) :]), found.name])
            problem = f"files include each other in a circle: {circle}"
        elif self.read >= MAX_FILES:
            problem = f"expected at most {MAX_FILES} included files, got more"
        else:
            self.file(found, within, where)
            return
        self.problems.add(where, f"include {syntax.show(name)}: {problem}")
        self.problems.incomplete = True

    def _text(self, path: Path, where: Location) -> str | None:
        """Return the text of a file. Add a problem and return None if it is not a readable text file of legal size."""
        said = "" if where.file == str(path) else f"include {syntax.show(str(path))}: "
        try:
            if path.is_dir():
                problem = "expected a config file, got a folder"
            elif not path.exists():
                problem = f"no such file{_similar_files([path])}"
            elif not path.is_file() or path.stat().st_size > MAX_BYTES:
                problem = f"expected a text file of at most {MAX_BYTES // 1000} kB"
            else:
                data = path.read_bytes()
                return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where, said = Location(str(path), data.count(b"\n", 0, error.start) + 1), ""
            problem = f"byte {error.start} is not UTF-8; save the file as UTF-8 text"
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        self.problems.add(where, said + problem)
        self.problems.incomplete = True
        return None


def find(name: str | Path) -> Path:
    """Return the path of a config file, searched first as given, then among the configs of the package.

    A name that is found nowhere is returned unchanged, and reading it reports the problem.
    """
    places = [Path(name), *(place / name for place in _OURS)]
    try:
        return next((place for place in places if place.exists()), places[0])
    except (OSError, ValueError):  # the name is too long, or has characters that no file name has
        return places[0]


_OURS = (Path(__file__).parents[2] / "configs", Path(sys.prefix) / "share" / "dalle_jax" / "configs")


def _places(name: str, folder: Path) -> list[Path]:
    """Return the candidate paths of an include: next to its file, in the ``configs`` folder above, in the package."""
    above = [p for p in (folder, *folder.absolute().parents) if p.name == "configs"][:1]
    return [Path(os.path.normpath(place / name)) for place in (folder, *above, *_OURS)]


def _similar_files(places: Sequence[Path]) -> str:
    """Return a hint that names files with names similar to the missing file's, from the folders that were searched."""
    try:
        names = [one.name for place in places if place.parent.is_dir() for one in place.parent.glob("*.gin")]
    except (OSError, ValueError):
        return ""
    return did_you_mean(places[0].name, names)


@dataclass
class Macros:
    """The macros of one config. Every use of a macro has the value of its last definition."""

    definitions: dict[str, Binding]
    problems: Problems
    used: set[str] = field(default_factory=set)
    values: dict[str, Value] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    kept: list[tuple[Value, ...]] = field(default_factory=list)

    def value(self, value: Value, where: Location, open_: tuple[str, ...] = (), depth: int = 0) -> Value:
        """Return the value with its macros expanded. Report a problem and return ``UNREADABLE`` if that fails."""
        if isinstance(value, SetValue):
            inner = self.value(value.value, where, open_, depth)
            return inner if isinstance(value.value, Macro) else SetValue(value.text, inner)
        if depth > syntax.MAX_DEPTH:
            self.problems.add(where, f"expected brackets and macros nested at most {syntax.MAX_DEPTH} deep, got more")
            return UNREADABLE
        if isinstance(value, Macro):
            return self._macro(value.name, where, open_, depth)
        if not isinstance(value, tuple | list):
            return value
        parts = [self.value(part, where, open_, depth + 1) for part in value]
        size = 1 + sum(self.sizes.get(id(part), 1) for part in parts)
        if size > MAX_ELEMENTS:
            self.problems.add(where, f"expected at most {MAX_ELEMENTS} elements in a value, got more")
            return UNREADABLE
        if any(part is UNREADABLE for part in parts):
            return UNREADABLE
        whole = tuple(parts)
        self.sizes[id(whole)] = size
        self.kept.append(whole)  # keep it alive, so that no other tuple gets its id
        return whole

    def _macro(self, name: str, where: Location, open_: tuple[str, ...], depth: int) -> Value:
        self.used.add(name)
        if name in self.values:
            return self.values[name]
        definition = self.definitions.get(name)
        if name in open_:
            circle = " -> ".join(f"%{one}" for one in [*open_[open_.index(name) :], name])
            self.problems.add(where, f"macros refer to each other in a circle: {circle}")
            return UNREADABLE
        if definition is None:
            hint = did_you_mean(name, self.definitions)
            self.problems.add(where, f"%{name} is not defined{hint}{self.problems.unless}")
            return UNREADABLE
        found = self.value(definition.value, definition.where, (*open_, name), depth + 1)
        self.values[name] = found
        return found


def bindings(reader: ConfigReader) -> Iterator[Binding]:
    """Yield the bindings with their macros expanded, without the definitions of macros."""
    defined = [one for one in reader.statements if _MACRO.fullmatch(one.name)]
    macros = Macros({one.name: one for one in defined}, reader.problems)
    for one in reader.statements:
        is_macro = _MACRO.fullmatch(one.name) is not None
        value = macros.value(one.value, one.where, (one.name,) if is_macro else ())
        if not is_macro:
            yield replace(one, value=value)
    for one in defined:
        if one.name not in macros.used and not reader.problems.incomplete:
            hint = did_you_mean(one.name, macros.used - {one.name})
            reader.problems.add(one.where, f"the macro {one.name} is not used{hint or '; remove it'}")
