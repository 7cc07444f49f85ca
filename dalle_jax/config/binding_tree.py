"""Bindings by the names of their paths."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dalle_jax.config.problems import Location
from dalle_jax.config.syntax import Binding


@dataclass
class Tree:
    """The bindings of one path and of the paths below it."""

    own: list[Binding] = field(default_factory=list)
    children: dict[str, "Tree"] = field(default_factory=dict)

    def add(self, binding: Binding, depth: int = 0) -> None:
        """Add a binding to the tree of its path. ``depth`` is the number of names in the path of this tree."""
        place = self
        for word in binding.name.split(".")[depth:]:
            place = place.children.setdefault(word, Tree())
        place.own.append(binding)

    def all(self) -> Iterator[Binding]:
        """Yield the bindings of this path, then those below it."""
        stack = [self]
        while stack:
            place = stack.pop()
            yield from place.own
            stack.extend(reversed(place.children.values()))

    def below(self) -> Iterator[Binding]:
        """Yield the bindings below this path."""
        for child in self.children.values():
            yield from child.all()

    def where(self, otherwise: Location) -> Location:
        """Return the location of the last binding at or below this path, without those of ``--set``.

        Return ``otherwise`` if there is none.
        """
        in_files = (binding.where for binding in self.all() if binding.where.line)
        return max(in_files, key=lambda where: where.order, default=otherwise)


def since(tree: Tree, order: int, depth: int) -> Tree:
    """Return a tree of the bindings of ``tree`` that stand after statement number ``order``.

    ``depth`` is the number of names in the path of ``tree``: 2 for "trainer.optimizer".
    """
    later = Tree()
    for binding in sorted(tree.all(), key=lambda one: one.where.order):
        if binding.where.order > order:
            later.add(binding, depth)
    return later
