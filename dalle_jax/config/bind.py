"""Config text to the dataclasses of one run.

A binding names a path in the tree of a run. Variants are chosen first, then leaves are set, and of several bindings of
one place the last wins. When a later binding chooses another variant, earlier bindings of that slot's parts stay where
they fit the new variant, and are forgotten where they fit only another one of the slot's; all else that fits nowhere is
an error. The root itself is the slot ``run``: ``run = @Name`` says which of a union of runs a text describes; a text
without it describes the union's first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dalle_jax.config.problems import Problems, Where, near
from dalle_jax.config.schema import NO, Leaf, Slot, could_hold, fields, fit, kind
from dalle_jax.config.sources import Source, bindings, find
from dalle_jax.config.syntax import BROKEN, Binding, Reference, Word, show

T = TypeVar("T")

ROOT = "run"
"""The name of the slot that the whole run stands in."""


def load(path: str | Path, root: type[T] | Any, sets: Sequence[str] = (), within: str = "") -> T:
    """Read a config file as the dataclass ``root``, or one of a union of them.

    A file that is not there is looked for among the package's configs. ``sets`` are bindings as ``--set`` takes them
    (``"trainer.steps=10"``), applied after the file; ``within`` (``"stages.clip."``) is the prefix that their names may
    have where the config is a part of another. Raises one ``UserError`` with a line for everything that is wrong.
    """
    source = Source(Problems())
    found = find(path)
    source.file(found)
    return _bind(source, root, sets, str(found), within)


def loads(
    text: str,
    root: type[T] | Any,
    name: str = "<text>",
    sets: Sequence[str] = (),
    include_folder: Path | None = None,
) -> T:
    """Read config text as ``load`` does a file.

    ``name`` stands for the text in errors; without ``include_folder`` it can include nothing.
    """
    source = Source(Problems())
    source.text(text, name, include_folder)
    return _bind(source, root, sets, name)


def _bind(source: Source, root: Any, sets: Sequence[str], name: str, within: str = "") -> Any:
    if source.problems.incomplete and not source.statements:
        source.problems.raise_if_any()
    for one in sets:
        source.set(one, within)
    tree = Tree(None)
    for binding in bindings(source):
        tree.add(binding)
    slot = kind(root, ROOT)
    if not isinstance(slot, Slot):
        raise TypeError(f"the root of a config is a dataclass or a union of dataclasses, not {root}")
    chosen = tree.children.pop(ROOT, Tree(None))
    tree.own = chosen.own
    builder = Builder(source.problems, slot)
    run = builder.slot("", slot, tree, slot.classes[0], (), Where(name, 1))
    for binding in (one for part in chosen.children.values() for one in part.all()):
        source.problems.add(binding.where, f"{binding.name}: paths do not begin with `{ROOT}.`; leave it out")
    builder.report_unknown(said_which=bool(tree.own))
    source.problems.raise_if_any()
    return run


@dataclass
class Tree:
    """The bindings of one path and of those below it."""

    parent: "Tree | None"
    own: list[Binding] = field(default_factory=list)
    children: dict[str, "Tree"] = field(default_factory=dict)

    def add(self, binding: Binding) -> None:
        """Put a binding where its path leads."""
        place = self
        for part in binding.name.split("."):
            place = place.children.setdefault(part, Tree(place))
        place.own.append(binding)

    def all(self) -> Iterator[Binding]:
        """The bindings of this path and, after them, of those below it."""
        stack = [self]
        while stack:
            place = stack.pop()
            yield from place.own
            stack.extend(reversed(place.children.values()))

    def where(self, otherwise: Where) -> Where:
        """Where text last speaks of this path or of what lies below it."""
        in_files = (one.where for one in self.all() if one.where.line)
        return max(in_files, key=lambda one: one.order, default=otherwise)


@dataclass(frozen=True)
class Rechosen:
    """A slot at ``depth`` of the path that got another variant at statement ``order``.

    Older bindings below it may not fit the new one.
    """

    slot: Slot
    depth: int
    order: int

    def excuses(self, binding: Binding) -> bool:
        """Whether the binding was meant for a variant that the slot had before."""
        path = tuple(binding.name.split("."))[self.depth :]
        return binding.where.order < self.order and could_hold(self.slot, path, binding.value)


@dataclass
class Builder:
    """Builds objects from the bottom up and notes what is wrong; ``NO`` stands for what could not be built."""

    problems: Problems
    root: Slot
    legal: list[str] = field(default_factory=list)
    unknown: list[tuple[Binding, str, str, type]] = field(default_factory=list)

    def slot(self, path: str, slot: Slot, tree: Tree, default: Any, old: tuple[Rechosen, ...], where: Where) -> Any:
        """The object in a slot.

        ``default`` is an object, None, a class, or ``NO``; ``where`` is the place to name for what is missing.
        """
        title = path or ROOT
        before = default if isinstance(default, type) or default in (None, NO) else type(default)
        if before is NO and len(slot.classes) == 1 and not slot.optional:
            before = slot.classes[0]
        depth = len(path.split(".")) if path else 0
        chosen, legal = before, True
        for binding in tree.own:
            found = slot.named(binding.value)
            if found is not NO:
                if isinstance(chosen, type) and chosen is not found:
                    old = (*old, Rechosen(slot, depth, binding.where.order))
                chosen, where = found, binding.where
            elif not any(one.excuses(binding) for one in old):
                self._wrong_choice(title, slot, binding)
                legal = False
                if binding.value is BROKEN or len(slot.classes) > 1 or slot.optional:
                    return self._unsure(title, slot, depth, tree, old)
        if chosen is None:
            return self._nothing(path, slot, tree, old)
        if chosen is NO:
            self._missing(tree.where(where), f"{title} is not chosen; expected {title} = {slot.expected}")
            return self._unsure(title, slot, depth, tree, old)
        base = default if type(default) is chosen else None
        built = self._object(path, chosen, tree, base, old, where)
        return built if legal else NO

    def _unsure(self, path: str, slot: Slot, depth: int, tree: Tree, old: tuple[Rechosen, ...]) -> Any:
        """``NO``, for a slot of unknown variant; report what would fit none of its variants."""
        for binding in (one for part in tree.children.values() for one in part.all()):
            fits = could_hold(slot, tuple(binding.name.split("."))[depth:], binding.value)
            if not fits and binding.value is not BROKEN and not any(one.excuses(binding) for one in old):
                text = f"{binding.name} = {show(binding.value)} fits no choice of {path}, {slot.expected}"
                self.problems.add(binding.where, text)
        return NO

    def _wrong_choice(self, path: str, slot: Slot, binding: Binding) -> None:
        value = binding.value
        if value is BROKEN:
            return
        name = value.name if isinstance(value, Reference) else value.text if isinstance(value, Word) else ""
        hint = near(name.removeprefix("@"), [one.__name__ for one in slot.classes])
        if not name:
            hint = f"; its parts are set one by one, as {path}.{next(iter(fields(slot.classes[0])), 'part')} = ..."
        self.problems.add(binding.where, f"{path}: expected {slot.expected}, got {show(value)}{hint}")

    def _nothing(self, path: str, slot: Slot, tree: Tree, old: tuple[Rechosen, ...]) -> Any:
        below = [one for part in tree.children.values() for one in part.all()]
        lost = [binding for binding in below if not any(one.excuses(binding) for one in old)]
        choices = " or ".join(f"@{one.__name__}" for one in slot.classes)
        for binding in lost:
            text = f"{binding.name}: {path} is None and has no parts; choose one with {path} = {choices}"
            self.problems.add(binding.where, text)
        return NO if lost else None

    def _object(self, path: str, cls: type, tree: Tree, base: Any, old: tuple[Rechosen, ...], where: Where) -> Any:
        """An object of the class; what no binding sets is as in ``base``, if there is one, or as the class says."""
        known = fields(cls)
        for name in tree.children.keys() - known.keys():
            strange = [one for one in tree.children[name].all() if not any(o.excuses(one) for o in old)]
            self.unknown.extend((one, path, name, cls) for one in strange if one.value is not BROKEN)
        values = {}
        here = tree.where(where) if path else where
        for name, one in known.items():
            place = f"{path}.{name}" if path else name
            self.legal.append(place)
            below = tree.children.get(name, Tree(tree))
            default = one.default if base is None else getattr(base, name)
            if isinstance(one.kind, Slot):
                values[name] = self.slot(place, one.kind, below, default, old, here)
            else:
                values[name] = self._leaf(place, one.kind, below, default, old, here)
        if any(value is NO for value in values.values()):
            return NO
        try:
            return cls(**values)
        except Exception as error:  # a check of values that fit their types
            said = str(error) or type(error).__name__
            own = [one.where for name in known for one in tree.children.get(name, Tree(tree)).own]
            at = max(own, key=lambda one: one.order, default=where)
            self.problems.add(at, f"{path or ROOT} ({cls.__name__}): {said}")
            return NO

    def _leaf(self, path: str, leaf: Leaf, tree: Tree, default: Any, old: tuple[Rechosen, ...], where: Where) -> Any:
        value, wrong = default, False
        for binding in tree.all():
            excused = any(one.excuses(binding) for one in old)
            if binding.value is BROKEN and binding.name == path:
                return NO
            if binding.name != path:
                if not excused:
                    self.problems.add(binding.where, f"{binding.name}: {path} is {leaf.expected} and has no parts")
                continue
            found = fit(leaf.annotation, binding.value)
            if found is not NO:
                value = found
            elif not excused:
                got = (show(binding.value) or "nothing") + _hint(leaf, binding.value)
                self.problems.add(binding.where, f"{path}: expected {leaf.expected}, got {got}")
                wrong = True
        if value is NO and not wrong:
            self._missing(where, f"{path} is missing; expected {path} = {leaf.expected}")
        return NO if wrong else value

    def _missing(self, where: Where, text: str) -> None:
        self.problems.add(where, text + self.problems.unless)

    def report_unknown(self, said_which: bool) -> None:
        """Report the names that fit nowhere, each with the legal names nearest to it."""
        for binding, path, wrong, cls in self.unknown:
            name = binding.name
            last = name.rsplit(".", 1)[-1]
            same = [one for one in self.legal if one.rsplit(".", 1)[-1] == last]
            inside = near(wrong, fields(cls), prefix=f"{path}." if path else "")
            hint = near(name, same) or inside or (f"; did you mean {same[0]}?" if same else "")
            have = hint or f"; {cls.__name__} has {', '.join(fields(cls)) or 'no fields'}"
            if not said_which and len(self.root.classes) > 1 and not path:
                have += f" (read as {cls.__name__}; else begin with {ROOT} = @Name)"
            self.problems.add(binding.where, f"{name}: no such name{have}")


def _hint(leaf: Leaf, value: Any) -> str:
    """A word more for mistakes that are often made."""
    letters = value.text if isinstance(value, Word) else value
    plain = value.value if isinstance(value, Word) else value
    words = [one.strip("'") for one in leaf.expected.split(" or ") if one.startswith(("'", "True", "False", "None"))]
    if isinstance(letters, str) and (hint := near(letters, words)):
        return hint
    return f"; write ({show(plain)},)" if fit(leaf.annotation, (plain,)) is not NO else ""
