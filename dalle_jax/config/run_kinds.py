"""The kinds of runs, each of which has a command: a config of the wrong kind is answered with the right command."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType

from dalle_jax.config.binding_tree import Tree
from dalle_jax.config.errors import UserError
from dalle_jax.config.schema import Slot, fields, kind
from dalle_jax.config.syntax import Reference


@dataclass(frozen=True)
class RunKinds:
    """All kinds of runs as a union, and the command that reads each of them, by the name of its class."""

    union: type | UnionType
    commands: Mapping[str, str]


def check_run(tree: Tree, slot: Slot, kinds: RunKinds, name: str) -> None:
    """Raise ``UserError``, which names the right command, for a config of a kind of run that ``slot`` does not hold.

    A config that does not choose its kind is of the kind that has all of its top-level names.
    """
    every = kind(kinds.union, "run")
    if not isinstance(every, Slot):
        raise TypeError(f"kinds: expected a union of dataclasses, got {kinds.union}")
    if tree.own:
        value = tree.own[-1].value
        chosen = value.name if isinstance(value, Reference) else ""
    else:
        names = tree.children.keys()
        fitting = [cls for cls in (*slot.classes, *every.classes) if names and names <= fields(cls).keys()]
        chosen = fitting[0].__name__ if fitting else ""
    if chosen in kinds.commands and chosen not in {cls.__name__ for cls in slot.classes}:
        expected = " or ".join(f"`{kinds.commands[cls.__name__]}` (@{cls.__name__})" for cls in slot.classes)
        command = kinds.commands[chosen]
        raise UserError(
            f"{name}: expected a config of {expected}, got one of `{command}` (@{chosen}); run it with "
            f"`python -m dalle_jax {command} {name}`"
        )
