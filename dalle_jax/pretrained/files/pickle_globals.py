"""Names that the restricted unpickler accepts, and the inert objects and functions that stand in for them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from dalle_jax.pretrained.files.tensors import SIZE_LIMIT, short_repr


class BadPickle(Exception):
    """A pickle that is malformed, or that holds something that no file of weights needs."""


@dataclass(frozen=True)
class GlobalName:
    """A function or class that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class InertObject:
    """An object whose class is not imported: its attributes, and its items if the class is a dict or list."""

    kind: GlobalName
    attributes: dict[object, object] = field(default_factory=dict)
    items: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A pickled tensor whose values are not checked yet: its storage, and the offset, shape and strides in the storage.

    ``dtype`` is None if it is the dtype of the storage.
    """

    storage: object
    offset: object
    shape: object
    strides: object
    dtype: GlobalName | None = None


def _tensor(storage: object, offset: object, shape: object, strides: object, *unused: object) -> TensorRef:
    """Return a reference to a tensor, in place of ``torch._utils._rebuild_tensor_v2``.

    requires_grad and hooks are not used.
    """
    del unused
    return TensorRef(storage, offset, shape, strides)


def _tensor_of_dtype(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    gradient: object,
    hooks: object,
    dtype: object,
    *unused: object,
) -> TensorRef:
    """Return a reference to a tensor of ``dtype``, in place of ``torch._utils._rebuild_tensor_v3``."""
    del gradient, hooks, unused
    if not isinstance(dtype, GlobalName):
        raise BadPickle(f"a tensor of dtype {short_repr(dtype)}")
    return TensorRef(storage, offset, shape, strides, dtype)


def _first(value: object, *unused: object) -> object:
    del unused
    return value


class InertKey:
    """A key that no weights have, such as a tuple. It is equal to itself alone, so hashing it takes no time."""


def check_key(value: object) -> object:
    """Return a key of a dict or set, whose hash takes no time.

    Tuples become an ``InertKey``: their hash is not cached, and different ones with the same hash are easy to make.
    """
    if isinstance(value, tuple):
        return InertKey()
    if isinstance(value, int) and abs(value) >= SIZE_LIMIT:
        raise BadPickle("a key that is a number of more than 63 bits, which is too long")
    return value


def _elements(value: object) -> list[object] | tuple[object, ...] | set[object] | dict[object, object]:
    if not isinstance(value, list | tuple | set | dict):
        raise BadPickle(f"a pickle that makes a collection of a {type(value).__name__}")
    return value


def _dict(pairs: object = ()) -> dict[object, object]:
    if isinstance(pairs, dict):
        return dict(pairs)
    found: dict[object, object] = {}
    for pair in _elements(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadPickle(f"a pickle that makes an item of a dict of a {type(pair).__name__}")
        found[check_key(pair[0])] = pair[1]
    return found


def _set(elements: object = ()) -> set[object]:
    return {check_key(one) for one in _elements(elements)}


def _nothing(*arguments: object) -> None:
    del arguments


CALLS: dict[str, Callable[..., object]] = {
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
    # values stored next to the weights, which no reader here uses
    "_codecs.encode": _nothing,
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
    "numpy.core.multiarray._reconstruct": _nothing,
    "numpy._core.multiarray._reconstruct": _nothing,
    "numpy.dtype": _nothing,
}
"""Functions that REDUCE calls, by the name in the pickle; all are pure functions of this module."""

STORAGE_KINDS = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
DTYPE_NAMES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
)
ALLOWED = frozenset(
    {
        *CALLS,
        "numpy.ndarray",
        *(f"torch.{kind}Storage" for kind in STORAGE_KINDS),
        "torch.storage.UntypedStorage",
        *(f"torch.{name}" for name in DTYPE_NAMES),
    }
)
"""All names that a pickle may use, except classes that become an ``InertObject``."""

INERT_MODULES = (
    *("__torch__", "dall_e", "torch.nn.modules"),
    *("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf"),
)
"""Modules whose classes become inert objects: TorchScript's, DALL·E's networks, metadata of Lightning checkpoints."""
INERT_CLASSES = frozenset({"argparse.Namespace", "collections.defaultdict", "torch.nn.parameter.Parameter"})


def is_inert(name: GlobalName) -> bool:
    """Return True if objects of this class become an ``InertObject``."""
    inside = any(name.module == module or name.module.startswith(f"{module}.") for module in INERT_MODULES)
    return str(name) in INERT_CLASSES or (inside and "." not in name.name)


def check_global(module: object, name: object) -> GlobalName:
    """Return the name of a function or class in a pickle.

    Raise BadPickle for a name that is neither allowed nor inert.
    """
    if not isinstance(module, str) or not isinstance(name, str):
        raise BadPickle(f"the name {short_repr(module)}.{short_repr(name)}, which no published weights need")
    found = GlobalName(module, name)
    if str(found) not in ALLOWED and not is_inert(found):
        raise BadPickle(f"the name {str(found)[:120]!r}, which no published weights need")
    return found
