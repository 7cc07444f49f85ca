"""Pickles without running them: an interpreter of the opcodes that weight files use, which calls nothing.

Python's own unpickler calls whatever a file names. Here a name stays a name: only those of ``ALLOWED`` and classes in
the modules of ``BAGS`` are taken at all, what is "called" is looked up in a table of this file, and an object of a
class becomes a ``Bag`` of its attributes. So the worst that a file can do is to be refused.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dalle_jax.pretrained.files.tensors import LARGEST, LONGEST_NAME, shown

MOST_STEPS = 5_000_000
"""Opcodes, and elements that they copy: a file of weights has some tens of them for each tensor."""


class BadPickle(Exception):
    """What a pickle holds that no weight file needs, or that makes no sense."""


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names; nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Bag:
    """An object of a class that is not there: its attributes, and its items where it is a kind of dict or list."""

    kind: Name
    attributes: dict[str, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor as pickled: its storage, and which of its elements. ``dtype`` where it is not the storage's own."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any
    dtype: Name | None = None


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *beside: Any) -> TensorRef:
    del beside  # whether it wants a gradient, hooks
    return TensorRef(storage, offset, shape, strides)


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any, *beside: Any
) -> TensorRef:
    del gradient, hooks, beside
    return TensorRef(storage, offset, shape, strides, dtype)


def _first(value: Any, *beside: Any) -> Any:
    del beside
    return value


def _key(value: Any) -> Any:
    """A key of a dict or set: tuples of tuples, which can take for ever to hash, are refused."""
    if isinstance(value, tuple) and any(isinstance(one, tuple) for one in value):
        raise BadPickle("a key that is a tuple of tuples")
    return value


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _set(elements: Any = ()) -> set[Any]:
    return {_key(one) for one in elements}


def _nothing(*arguments: Any) -> None:
    del arguments


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "__builtin__.set": _set,
    "builtins.set": _set,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": _first,
    "torch.device": _nothing,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    # numbers and texts beside the weights, which none of our readers asks for
    "_codecs.encode": _nothing,
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
    "numpy.core.multiarray._reconstruct": _nothing,
    "numpy._core.multiarray._reconstruct": _nothing,
    "numpy.dtype": _nothing,
}
"""What REDUCE of each name gives: our own functions of the arguments, none of which reaches outside."""

VALUES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
DTYPE_NAMES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
)
ALLOWED = frozenset(
    {
        *CALLS,
        "numpy.ndarray",
        *(f"torch.{kind}Storage" for kind in VALUES),
        "torch.storage.UntypedStorage",
        *(f"torch.{name}" for name in DTYPE_NAMES),
    }
)
"""All names that a pickle may use, but for the classes of BAGS."""

BAGS = ("__torch__", "dall_e", "torch.nn.modules", "pytorch_lightning", "lightning", "lightning_fabric", "omegaconf")
"""Modules whose classes become bags: TorchScript's, DALL·E's pickled networks, what Lightning saves of a run."""
BAG_CLASSES = frozenset({"argparse.Namespace", "collections.defaultdict", "torch.nn.parameter.Parameter"})

Persistent = Callable[[Any], Any]


def is_bag(name: Name) -> bool:
    """Whether objects of this class are kept as bags."""
    inside = any(name.module == module or name.module.startswith(f"{module}.") for module in BAGS)
    return str(name) in BAG_CLASSES or (inside and "." not in name.name)


def allowed(module: Any, name: Any) -> Name:
    """The name, refused where it is not one of the list."""
    texts = isinstance(module, str) and isinstance(name, str)
    found = Name(module, name) if texts else None
    if found is None or not (str(found) in ALLOWED or is_bag(found)):
        got = repr(str(found)[:120]) if texts else f"{shown(module)}.{shown(name)}"
        raise BadPickle(f"the name {got}, which no published weights need")
    return found


def load(stream: Any, persistent: Persistent) -> Any:
    """The object of the pickle that begins where ``stream`` (a file or a map) stands, which then stands behind it.

    ``persistent`` makes what a persistent id stands for. Raises BadPickle for all that it does not know.
    """
    machine = _Machine(persistent)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.pop()
            machine.spend(1)
            machine.run(opcode.name, argument)
    except BadPickle:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise BadPickle(f"a pickle that is broken ({str(error)[:100] or type(error).__name__})") from error
    raise BadPickle("a pickle that is cut off")


class _Machine:
    """The stack and the memo. ``marks`` are the heights of the stack at which MARK was."""

    def __init__(self, persistent: Persistent):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.persistent = persistent
        self.left = MOST_STEPS

    def spend(self, steps: int) -> None:
        """Refuses a pickle that takes more than any file of weights does."""
        self.left -= steps
        if self.left < 0:
            raise BadPickle(f"a pickle of more than {MOST_STEPS} steps, which no published weights need")

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise BadPickle("a pickle that takes more than it put")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        height = self.marks.pop()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def run(self, name: str, argument: Any) -> None:
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in PUTS:
            self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]
        elif name in GETS:
            self.stack.append(self.memo[int(argument)])
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise BadPickle(f"the pickle opcode {name}, which no published weights need")

    def gather(self, argument: Any) -> None:
        del argument
        self.stack.append(tuple(self.since_mark()))

    def tuple_of(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Bag):
            start = len(target.items)
            target.items.update({start + number: value for number, value in enumerate(values)})
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise BadPickle(f"a pickle that appends to a {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Bag) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise BadPickle(f"a pickle that sets items of a {type(target).__name__}")
        items.update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def set_item(self, argument: Any) -> None:
        del argument
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise BadPickle(f"a pickle that adds to a {type(target).__name__}")
        target.update(map(_key, values))

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(allowed(module, name))

    def stacked_name(self, argument: Any) -> None:
        del argument
        name, module = self.pop(), self.pop()
        self.stack.append(allowed(module, name))

    def call(self, argument: Any) -> None:
        del argument
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise BadPickle(f"a pickle that calls a {type(function).__name__}")
        self.spend(sum(len(one) for one in arguments if isinstance(one, dict | list | set | tuple)))
        if is_bag(function):
            self.stack.append(Bag(function))
        elif str(function) in CALLS:
            self.stack.append(CALLS[str(function)](*arguments))
        else:
            raise BadPickle(f"a pickle that calls {function}")

    def build(self, argument: Any) -> None:
        del argument
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Bag):
            parts = state if isinstance(state, tuple) else (state,)  # of classes with slots there are two
            for part in parts:
                if part is not None and not isinstance(part, dict):
                    raise BadPickle(f"a pickle that builds an object from a {type(part).__name__}")
                self.spend(len(part or {}))
                target.attributes.update(part or {})
        elif not isinstance(target, dict) and target is not None:  # an OrderedDict's attributes: torch's versions
            raise BadPickle(f"a pickle that builds a {type(target).__name__}")

    def refer(self, argument: Any) -> None:
        del argument
        self.stack.append(self.persistent(self.pop()))

    def mark(self, argument: Any) -> None:
        del argument
        self.marks.append(len(self.stack))


def _keys_and_values(machine: _Machine, argument: Any) -> None:
    del argument
    values = machine.since_mark()
    machine.stack.append({})
    machine.set_items(values)


LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
"""Opcodes whose argument is what they push."""

CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.pop(),
    "TUPLE": _Machine.gather,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": _keys_and_values,
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.since_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.refer,
}


def leaves(root: Any, deepest: int = 64, most: int = 200_000) -> Iterator[tuple[str, Any]]:
    """All tensors, numbers and texts of an object by dotted name; a network's parts as torch names them.

    Of a pickled network (``_parameters``, ``_buffers``, ``_modules``) these three are walked as if they were its own
    attributes. Raises BadPickle where there are too many or they lie too deep, as in an object that holds itself.
    """
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while waiting:
        prefix, node, depth = waiting.pop()
        seen += 1
        if depth > deepest or seen > most:
            raise BadPickle(f"objects in each other more than {deepest} deep, or more than {most} of them")
        children = _children(node)
        if children is None:
            yield prefix, node
            continue
        if any(len(key) > LONGEST_NAME if isinstance(key, str) else abs(key) >= LARGEST for key, _ in children):
            raise BadPickle("names that are too long")
        inside = [(f"{prefix}.{key}" if prefix else str(key), value, depth + 1) for key, value in children]
        if seen + len(waiting) + len(inside) > most:
            raise BadPickle(f"more than {most} objects")
        waiting.extend(reversed(inside))


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(node, Bag):
        own = {key: value for key, value in node.attributes.items() if isinstance(key, str)}
        parts = [own.pop(name, None) for name in ("_parameters", "_buffers", "_modules")]
        pairs = [pair for part in parts if isinstance(part, dict) for pair in part.items()]
        return (
            pairs + [(key, value) for key, value in own.items() if not key.startswith("_")] + list(node.items.items())
        )
    if isinstance(node, dict):
        return [(key, value) for key, value in node.items() if isinstance(key, str | int)]
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    return None
