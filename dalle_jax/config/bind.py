"""Build the dataclasses of a run from config text.

A binding ``path = value`` sets one field of a run, which is a tree of dataclasses. ``schema.py`` explains its slots,
maps and leaves. Variants of slots are chosen first, then leaves are set; the last binding of a path wins. When a later
binding chooses another variant, earlier bindings below the slot stay if they fit the new variant. They are ignored if
they fit only another variant of the slot. Any other binding that fits nowhere is an error.

The root is the slot ``run``: ``run = @Name`` chooses from a union of runs, and the first one is the default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import TypeVar, cast

from dalle_jax.config.binding_tree import Tree, since
from dalle_jax.config.problems import Location, Problems, did_you_mean
from dalle_jax.config.renamed import Renamed, renamed_field, renamed_variant
from dalle_jax.config.run_kinds import RunKinds, check_run
from dalle_jax.config.schema import MISSING, Kind, Leaf, Map, Slot, could_hold, fields, fit, kind
from dalle_jax.config.sources import ConfigReader, bindings, find
from dalle_jax.config.syntax import UNREADABLE, Binding, Reference, SetValue, Value, show

T = TypeVar("T")

ROOT = "run"
"""The name of the slot that holds the whole run."""


def load(
    path: str | Path,
    root: type[T] | UnionType,
    sets: Sequence[str] = (),
    within: str = "",
    kinds: RunKinds | None = None,
) -> T:
    """Read a config file as the dataclass ``root``, or as one of a union of dataclasses.

    The package's own configs are searched if the file does not exist. ``sets`` are ``--set`` arguments, such as
    ``"trainer.steps=10"``, applied after the file. ``within``, such as "stages.clip.", is a prefix that the names in
    ``sets`` may have if this config is a part of another one. Raise one ``UserError`` with a line for each problem. If
    the config is of a different kind in ``kinds``, the error names the command for it.
    """
    reader = ConfigReader(Problems())
    found = find(path)
    reader.file(found)
    return cast(T, _bind(reader, root, sets, str(found), within, kinds))


def loads(
    text: str,
    root: type[T] | UnionType,
    name: str = "<text>",
    sets: Sequence[str] = (),
    include_folder: Path | None = None,
) -> T:
    """Read config text as ``load`` reads a file.

    Errors show ``name`` as the file's name. Without ``include_folder`` an ``include`` statement is an error.
    """
    reader = ConfigReader(Problems())
    reader.text(text, name, include_folder)
    return cast(T, _bind(reader, root, sets, name))


def _bind(
    reader: ConfigReader,
    root: type | UnionType,
    sets: Sequence[str],
    name: str,
    within: str = "",
    kinds: RunKinds | None = None,
) -> object:
    if reader.problems.incomplete and not reader.statements:
        reader.problems.raise_if_any()
    for argument in sets:
        reader.set(argument, within)
    tree = Tree()
    for binding in bindings(reader):
        tree.add(binding)
    slot = kind(root, ROOT)
    if not isinstance(slot, Slot):
        raise TypeError(f"root: expected a dataclass or a union of dataclasses, got {root}")
    run_tree = tree.children.pop(ROOT, Tree())
    tree.own = run_tree.own
    if kinds is not None:
        check_run(tree, slot, kinds, name)
    builder = Builder(reader.problems, slot)
    run = builder.slot("", slot, tree, slot.classes[0], (), Location(name, 1))
    for binding in run_tree.below():
        reader.problems.add(binding.where, f"{binding.name}: paths do not begin with `{ROOT}.`; leave it out")
    builder.report_unknown(variant_is_given=bool(tree.own))
    reader.problems.raise_if_any()
    return run


@dataclass(frozen=True)
class Replaced:
    """A change of a slot's variant, or a removal of all entries of a map, by statement number ``order``.

    ``depth`` is the number of names in the path of the slot or map. Older bindings may fit only the replaced value.
    """

    kind: Kind
    depth: int
    order: int

    def excuses(self, binding: Binding) -> bool:
        """Return True if a binding from before the change fits the replaced value, so that it is not an error."""
        path = tuple(binding.name.split("."))[self.depth :]
        return binding.where.order < self.order and could_hold(self.kind, path, binding.value)


@dataclass(frozen=True)
class Unknown:
    """A binding with a name that the class at ``path`` does not have."""

    binding: Binding
    path: str
    cls: type

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names in the binding's path after ``path``. The first of them is the unknown one."""
        return tuple(self.binding.name.split("."))[_depth(self.path) :]


@dataclass
class Builder:
    """Builder of a run from its bindings. A value with a problem is ``MISSING``, and the problem is recorded."""

    problems: Problems
    root: Slot
    legal: list[str] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    similar: dict[str, str] = field(default_factory=dict)
    """By path of a map's entry, a hint that names other entries with a similar name, for error messages."""

    def value(
        self, path: str, kind: Kind, tree: Tree, default: object, old: tuple[Replaced, ...], where: Location
    ) -> object:
        """Build the value of a field: a leaf, a slot or a map."""
        if isinstance(kind, Leaf):
            return self._leaf(path, kind, tree, default, old, where)
        if isinstance(kind, Map):
            return self._map(path, kind, tree, default, old, where)
        return self.slot(path, kind, tree, default, old, where)

    def slot(
        self, path: str, slot: Slot, tree: Tree, default: object, old: tuple[Replaced, ...], where: Location
    ) -> object:
        """Build the object of a slot, or return None for an empty slot.

        ``default`` is used if no binding chooses a variant: an object, a class to build, None, or ``MISSING``. Errors
        about missing values show the location ``where``.
        """
        title = path or ROOT
        before = default if isinstance(default, type) or default in (None, MISSING) else type(default)
        if before is MISSING and len(slot.classes) == 1 and not slot.optional:
            before = slot.classes[0]
        depth = _depth(path)
        chosen, legal = before, True
        for binding in tree.own:
            found = slot.choice(binding.value)
            if found is not MISSING:
                if isinstance(chosen, type) and chosen is not found:
                    old = (*old, Replaced(slot, depth, binding.where.order))
                chosen, where = found, binding.where
            elif not _excused(binding, old):
                self._wrong_choice(title, slot, binding)
                legal = False
                if binding.value is UNREADABLE or len(slot.classes) > 1 or slot.optional:
                    return self._undecided(title, slot, depth, tree, old)
        if chosen is None:
            return self._none(path, slot, tree, old)
        if chosen is MISSING:
            self._missing(path, tree.where(where), f"{title} is not chosen; expected {title} = {slot.expected}")
            return self._undecided(title, slot, depth, tree, old)
        base = default if type(default) is chosen else None
        built = self._object(path, chosen, tree, base, old, where)
        return built if legal else MISSING

    def _undecided(self, path: str, slot: Slot, depth: int, tree: Tree, old: tuple[Replaced, ...]) -> object:
        """Report the bindings that fit no variant of a slot, and return ``MISSING``. The slot's variant is unknown."""
        for binding in tree.below():
            fits = could_hold(slot, tuple(binding.name.split("."))[depth:], binding.value)
            if not fits and binding.value is not UNREADABLE and not _excused(binding, old):
                text = f"{binding.name} = {show(binding.value)} fits no variant of {path}, which is {slot.expected}"
                self.problems.add(binding.where, text)
        return MISSING

    def _wrong_choice(self, path: str, slot: Slot, binding: Binding) -> None:
        value = binding.value
        if value is UNREADABLE:
            return
        name = value.name if isinstance(value, Reference) else value.text if isinstance(value, SetValue) else ""
        name = name.removeprefix("@")
        hint = renamed_variant(name) or did_you_mean(name, [cls.__name__ for cls in slot.classes])
        if not name:
            hint = f"; set its fields one by one, as {path}.{next(iter(fields(slot.classes[0])), 'field')} = ..."
        self.problems.add(binding.where, f"{path}: expected {slot.expected}, got {show(value)}{hint}")

    def _none(self, path: str, slot: Slot, tree: Tree, old: tuple[Replaced, ...]) -> object:
        lost = [binding for binding in tree.below() if not _excused(binding, old)]
        choices = " or ".join(f"@{cls.__name__}" for cls in slot.classes)
        for binding in lost:
            text = f"{binding.name}: {path} is None and has no fields; choose a variant with {path} = {choices}"
            self.problems.add(binding.where, text)
        return MISSING if lost else None

    def _object(
        self, path: str, cls: type, tree: Tree, base: object, old: tuple[Replaced, ...], where: Location
    ) -> object:
        """Build an object of the class. Unbound fields are as in ``base``; if that is None, they have the defaults."""
        known = fields(cls)
        replaced = self._unknown_names(path, cls, tree, old)
        values: dict[str, object] = {}
        here = tree.where(where) if path else where
        for name, declared in known.items():
            place = f"{path}.{name}" if path else name
            self.legal.append(place)
            below = tree.children.get(name, Tree())
            default = declared.default if base is None else getattr(base, name)
            if name in replaced and default is MISSING and not any(below.all()):
                values[name] = MISSING  # its old name is reported already
            else:
                values[name] = self.value(place, declared.kind, below, default, old, here)
        if any(value is MISSING for value in values.values()):
            return MISSING
        try:
            return cls(**values)
        except Exception as error:  # the class rejects a combination of values that each have the right type
            text = str(error) or type(error).__name__
            own = [binding.where for name in known for binding in tree.children.get(name, Tree()).own]
            at = max(own, key=lambda one: one.order, default=where)
            self.problems.add(at, f"{path or ROOT} ({cls.__name__}): {text}")
            return MISSING

    def _unknown_names(self, path: str, cls: type, tree: Tree, old: tuple[Replaced, ...]) -> set[str]:
        """Record the bindings of unknown fields. Return the fields that were given under an old name."""
        replaced = set()
        for name in tree.children.keys() - fields(cls).keys():
            for binding in tree.children[name].all():
                if binding.value is not UNREADABLE and not _excused(binding, old):
                    one = Unknown(binding, path, cls)
                    self.unknown.append(one)
                    if (found := renamed_field(cls, one.names)) and found[1].now:
                        replaced.add(found[1].now.split(".")[0])
        return replaced

    def _leaf(
        self, path: str, leaf: Leaf, tree: Tree, default: object, old: tuple[Replaced, ...], where: Location
    ) -> object:
        value, wrong = default, False
        for binding in tree.all():
            excused = _excused(binding, old)
            if binding.value is UNREADABLE and binding.name == path:
                return MISSING
            if binding.name != path:
                if not excused:
                    self.problems.add(binding.where, f"{binding.name}: {path} is {leaf.expected} and has no fields")
                continue
            found = fit(leaf.annotation, binding.value)
            if found is not MISSING:
                value = found
            elif not excused:
                got = (show(binding.value) or "nothing") + _hint(leaf, binding.value)
                self.problems.add(binding.where, f"{path}: expected {leaf.expected}, got {got}")
                wrong = True
        if value is MISSING and not wrong:
            self._missing(path, where, f"{path} is missing; expected {path} = {leaf.expected}")
        return MISSING if wrong else value

    def _map(
        self, path: str, map_: Map, tree: Tree, default: object, old: tuple[Replaced, ...], where: Location
    ) -> object:
        """Return the entries of a map by name, in the order in which they are first mentioned."""
        wrong = False
        inherited: Mapping[str, object] = default if isinstance(default, Mapping) else {}
        stated = {*inherited, *(name for name, child in tree.children.items() if any(map(_states, child.all())))}
        for binding in tree.own:
            if map_.is_clear(binding.value):
                self._check_cleared(path, map_, tree, binding.where.order, old)
                old = (*old, Replaced(map_, _depth(path), binding.where.order))
                inherited, tree = {}, since(tree, binding.where.order, _depth(path))
                default = inherited
            elif not _excused(binding, old):
                wrong = True
                if binding.value is not UNREADABLE:
                    expected = f"{path}.NAME = {map_.item.expected}, or {path} = {{}}, which removes all entries"
                    self.problems.add(binding.where, f"{path}: expected {expected}, got {show(binding.value)}")
        if default is MISSING and not tree.children and not wrong:
            self._missing(path, where, f"{path} is missing; expected {path}.NAME = {map_.item.expected}")
            return MISSING
        entries = {}
        for name in dict.fromkeys([*inherited, *tree.children]):
            place, below = f"{path}.{name}", tree.children.get(name, Tree())
            if name not in stated:
                hint = did_you_mean(name, stated, f"{path}.")
                for binding in below.own:
                    self.problems.add(binding.where, f"{place} = None: there is no such entry to remove{hint}")
            self.legal.append(place)
            self.similar[place] = did_you_mean(name, stated - {name}, f"{path}.")
            entry_default = inherited.get(name, map_.entry_default)
            entries[name] = self.value(place, map_.entry, below, entry_default, old, where)
        if wrong or any(entry is MISSING for entry in entries.values()):
            return MISSING
        return {name: entry for name, entry in entries.items() if entry is not None}

    def _check_cleared(self, path: str, map_: Map, tree: Tree, order: int, old: tuple[Replaced, ...]) -> None:
        """Report bindings from before statement ``order``, which clears the map, if no entry could hold them."""
        for binding in tree.below():
            fits = could_hold(map_, tuple(binding.name.split("."))[_depth(path) :], binding.value)
            judged = binding.where.order < order and binding.value is not UNREADABLE and not _excused(binding, old)
            if judged and not fits:
                text = f"{binding.name} = {show(binding.value)} fits no entry of {path}, which is {map_.item.expected}"
                self.problems.add(binding.where, text)

    def _missing(self, path: str, where: Location, text: str) -> None:
        hint = next((hint for entry, hint in self.similar.items() if f"{path}.".startswith(f"{entry}.")), "")
        self.problems.add(where, text + hint + self.problems.unless)

    def report_unknown(self, variant_is_given: bool) -> None:
        """Report each unknown name with its present name, or else with the most similar legal names."""
        for one in self.unknown:
            if found := renamed_field(one.cls, one.names):
                self.problems.add(one.binding.where, _renamed(one, *found))
                continue
            path, name = one.path, one.binding.name
            last = name.rsplit(".", 1)[-1]
            same = [legal for legal in self.legal if legal.rsplit(".", 1)[-1] == last]
            inside = did_you_mean(one.names[0], fields(one.cls), prefix=f"{path}." if path else "")
            hint = did_you_mean(name, same) or inside or (f"; did you mean {same[0]}?" if same else "")
            have = hint or f"; {one.cls.__name__} has {', '.join(fields(one.cls)) or 'no fields'}"
            if not variant_is_given and len(self.root.classes) > 1 and not path:
                have += (
                    f" (read as the config of a {one.cls.__name__}; one of a different kind begins with {ROOT} = @Name)"
                )
            self.problems.add(one.binding.where, f"{name}: no such name{have}")


def _depth(path: str) -> int:
    return len(path.split(".")) if path else 0


def _excused(binding: Binding, old: tuple[Replaced, ...]) -> bool:
    return any(one.excuses(binding) for one in old)


def _states(binding: Binding) -> bool:
    """Return True if the binding has a value, and False if it is ``NAME = None``, which removes an entry of a map."""
    value = binding.value.value if isinstance(binding.value, SetValue) else binding.value
    return value is not None


def _renamed(one: Unknown, old: str, found: Renamed) -> str:
    """Return the error message for a binding that uses the old name of a field."""
    note = f"; {found.note}" if found.note else ""
    if found.now is None:
        return f"{one.binding.name}: this field no longer exists; remove it{note}"
    rest = ".".join(one.names)[len(old) :]
    return f"{one.binding.name} is now {f'{one.path}.' if one.path else ''}{found.now}{rest}{note}"


def _hint(leaf: Leaf, value: Value) -> str:
    """Return a hint for two common mistakes: a misspelt word, and a single value instead of a tuple."""
    letters = value.text if isinstance(value, SetValue) else value
    plain = value.value if isinstance(value, SetValue) else value
    words = [one.strip("'") for one in leaf.expected.split(" or ") if one.startswith(("'", "True", "False", "None"))]
    if isinstance(letters, str) and (hint := did_you_mean(letters, words)):
        return hint
    return f"; write ({show(plain)},)" if fit(leaf.annotation, (plain,)) is not MISSING else ""
