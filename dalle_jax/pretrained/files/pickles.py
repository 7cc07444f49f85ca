"""Restricted unpickler: interprets the opcodes that weight files use, and calls nothing that a file names.

Python's own unpickler imports and calls whatever a file names. This one keeps a name as a ``GlobalName``:

- Names that pickle_globals.py does not list are refused.
- REDUCE calls the function that pickle_globals.py lists for a name.
- An object of a class becomes an ``InertObject``, which holds its attributes.

The worst that a hostile file can cause is therefore an error. Memory and steps are spent from the budget of the file.
"""

import itertools
import pickletools
import sys
from collections.abc import Callable, Iterator
from typing import IO, Protocol, TypeAlias, cast, runtime_checkable

from dalle_jax.pretrained.files.pickle_globals import (
    CALLS,
    BadPickle,
    GlobalName,
    InertObject,
    TensorRef,
    check_global,
    check_key,
    is_inert,
)
from dalle_jax.pretrained.files.tensors import MAX_NAME_LENGTH, Scalar
from dalle_jax.untrusted import Budget, OverBudget

OPCODE_BYTES = 64
"""Bytes that are spent for an opcode, on top of its argument: a place on the stack, and an entry of a container."""
OBJECT_BYTES = 400
"""Bytes that are spent in addition for an object, a name, a tensor or a set."""
ENTRY_BYTES = 100
"""Bytes that are spent for an element which is copied into a dict or a set."""

PersistentLoad: TypeAlias = Callable[[object], object]
"""Function from a persistent id to an object, such as ``pickle.Unpickler.persistent_load``."""


@runtime_checkable
class ByteStream(Protocol):
    """The part of a binary file's interface that ``pickletools.genops`` uses."""

    def read(self, count: int, /) -> bytes:
        """Read up to ``count`` bytes."""

    def readline(self) -> bytes:
        """Read up to the next line break and including it."""

    def tell(self) -> int:
        """Return the position."""


def load(stream: ByteStream, persistent_load: PersistentLoad, budget: Budget) -> object:
    """Read one pickle from the position of ``stream``, and leave the position at its end.

    Raises BadPickle for every opcode and name that is not known, and beyond ``budget``.
    """
    interpreter = _Interpreter(persistent_load, budget)
    try:
        for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", stream)):
            if opcode.name == "STOP":
                return interpreter.pop()
            budget.spend(OPCODE_BYTES if argument is None else OPCODE_BYTES + sys.getsizeof(argument))
            interpreter.run(opcode.name, argument)
    except BadPickle:
        raise
    except OverBudget as error:
        raise BadPickle(str(error)) from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise BadPickle(f"a pickle that is broken ({str(error)[:100] or type(error).__name__})") from error
    raise BadPickle("a pickle that is cut off")


class _Interpreter:
    """Stack and memo of the pickle machine; ``marks`` holds the stack's height at each open MARK."""

    def __init__(self, persistent_load: PersistentLoad, budget: Budget):
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[object, object] = {}
        self.persistent_load = persistent_load
        self.budget = budget

    def pop(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise BadPickle("a pickle that pops more than it pushed")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        height = self.marks.pop()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def run(self, name: str, argument: object) -> None:
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in PUTS:
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in GETS:
            self.stack.append(self.memo[argument])
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise BadPickle(f"the pickle opcode {name}, which no published weights need")

    def tuple_to_mark(self, argument: object) -> None:
        del argument
        self.stack.append(tuple(self.pop_to_mark()))

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, InertObject):
            start = len(target.items)
            target.items.update({start + number: value for number, value in enumerate(values)})
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise BadPickle(f"a pickle that appends to a {type(target).__name__}")

    def set_items(self, values: list[object]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, InertObject) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise BadPickle(f"a pickle that sets items of a {type(target).__name__}")
        items.update(zip(map(check_key, values[::2]), values[1::2], strict=True))

    def set_item(self, argument: object) -> None:
        del argument
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_items(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise BadPickle(f"a pickle that adds to a {type(target).__name__}")
        target.update(map(check_key, values))

    def global_name(self, argument: object) -> None:
        self.budget.spend(OBJECT_BYTES, 0)
        module, _, name = str(argument).partition(" ")
        self.stack.append(check_global(module, name))

    def stack_global(self, argument: object) -> None:
        del argument
        self.budget.spend(OBJECT_BYTES, 0)
        name, module = self.pop(), self.pop()
        self.stack.append(check_global(module, name))

    def reduce(self, argument: object) -> None:
        del argument
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, GlobalName) or not isinstance(arguments, tuple):
            raise BadPickle(f"a pickle that calls a {type(function).__name__}")
        copied = sum(len(one) for one in arguments if isinstance(one, dict | list | set | tuple))
        self.budget.spend(OBJECT_BYTES + ENTRY_BYTES * copied, copied)
        if is_inert(function):
            self.stack.append(InertObject(function))
        elif str(function) in CALLS:
            self.stack.append(CALLS[str(function)](*arguments))
        else:
            raise BadPickle(f"a pickle that calls {function}")

    def build(self, argument: object) -> None:
        del argument
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, InertObject):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # two parts with slots
            for part in parts:
                if part is None:
                    continue
                if not isinstance(part, dict):
                    raise BadPickle(f"a pickle that builds an object from a {type(part).__name__}")
                self.budget.spend(ENTRY_BYTES * len(part), len(part))
                target.attributes.update(part)
        elif not isinstance(target, dict) and target is not None:  # torch sets attributes of an OrderedDict
            raise BadPickle(f"a pickle that builds a {type(target).__name__}")

    def persistent_id(self, argument: object) -> None:
        del argument
        self.budget.spend(OBJECT_BYTES, 0)
        self.stack.append(self.persistent_load(self.pop()))

    def empty_set(self, argument: object) -> None:
        del argument
        self.budget.spend(OBJECT_BYTES, 0)
        self.stack.append(set())

    def mark(self, argument: object) -> None:
        del argument
        self.marks.append(len(self.stack))

    def dict_to_mark(self, argument: object) -> None:
        del argument
        values = self.pop_to_mark()
        self.stack.append({})
        self.set_items(values)


LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
"""Opcodes that push their argument."""

CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
OPERATIONS: dict[str, Callable[[_Interpreter, object], object]] = {
    "MARK": _Interpreter.mark,
    "EMPTY_SET": _Interpreter.empty_set,
    "POP": lambda interpreter, _: interpreter.pop(),
    "TUPLE": _Interpreter.tuple_to_mark,
    "TUPLE1": lambda interpreter, _: interpreter.tuple_of(1),
    "TUPLE2": lambda interpreter, _: interpreter.tuple_of(2),
    "TUPLE3": lambda interpreter, _: interpreter.tuple_of(3),
    "LIST": lambda interpreter, _: interpreter.stack.append(interpreter.pop_to_mark()),
    "DICT": _Interpreter.dict_to_mark,
    "APPEND": lambda interpreter, _: interpreter.append([interpreter.pop()]),
    "APPENDS": lambda interpreter, _: interpreter.append(interpreter.pop_to_mark()),
    "SETITEM": _Interpreter.set_item,
    "SETITEMS": lambda interpreter, _: interpreter.set_items(interpreter.pop_to_mark()),
    "ADDITEMS": lambda interpreter, _: interpreter.add_items(interpreter.pop_to_mark()),
    "GLOBAL": _Interpreter.global_name,
    "STACK_GLOBAL": _Interpreter.stack_global,
    "REDUCE": _Interpreter.reduce,
    "NEWOBJ": _Interpreter.reduce,
    "BUILD": _Interpreter.build,
    "BINPERSID": _Interpreter.persistent_id,
}


def leaves(root: object, budget: Budget, max_depth: int = 64) -> Iterator[tuple[str, object]]:
    """Yield all tensors, numbers and strings of an object by dotted name.

    The names are those of torch's state dicts: entries of ``_parameters``, ``_buffers`` and ``_modules`` count as
    attributes of the module itself. Raises BadPickle beyond ``max_depth`` and ``budget``, which an object that
    contains itself exceeds.
    """
    levels: list[tuple[str, Iterator[tuple[str | int, object]]]] = [("", iter([("", root)]))]
    try:
        while levels:
            prefix, siblings = levels[-1]
            found = next(siblings, None)
            if found is None:
                levels.pop()
                continue
            key, node = found
            name = f"{prefix}.{key}" if prefix else str(key)
            if len(name) > MAX_NAME_LENGTH:
                raise BadPickle("names that are too long")
            budget.spend(0)
            children = _children(node, budget)
            if children is not None:
                if len(levels) > max_depth:
                    raise BadPickle(f"objects nested more than {max_depth} deep")
                levels.append((name, children))
            elif isinstance(node, TensorRef | Scalar):
                budget.spend(sys.getsizeof(name), 0)
                yield name, node
    except OverBudget as error:
        raise BadPickle(str(error)) from error


def _children(node: object, budget: Budget) -> Iterator[tuple[str | int, object]] | None:
    """Return the named children of a container; return None for a leaf."""
    if isinstance(node, InertObject):
        budget.spend(0, len(node.attributes))
        own = {key: value for key, value in node.attributes.items() if isinstance(key, str)}
        parts = [own.pop(name, None) for name in ("_parameters", "_buffers", "_modules")]
        public = {key: value for key, value in own.items() if not key.startswith("_")}
        return itertools.chain(
            *(_named(part, budget) for part in (*parts, public, node.items) if isinstance(part, dict))
        )
    if isinstance(node, dict):
        return _named(node, budget)
    if isinstance(node, list | tuple):
        return iter(enumerate(node))
    return None


def _named(items: dict[object, object], budget: Budget) -> Iterator[tuple[str | int, object]]:
    for key, value in items.items():
        if isinstance(key, str | int):
            yield key, value
        else:
            budget.spend(0)
