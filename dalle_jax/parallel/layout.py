"""The layout: the only place that maps logical axes to devices, for training, restoring, sampling and serving."""

import contextlib
import contextvars
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jax.stages import Lowered, Traced

from dalle_jax.arrays import Array, PyTree
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.parallel.axes import BATCH, CANDIDATES, LAYERS, SEQ
from dalle_jax.parallel.mesh import MESH_AXES, SLICES
from dalle_jax.parallel.rules import Rules

Axes: TypeAlias = Sequence[str | None]
R = TypeVar("R")

_current: contextvars.ContextVar["Layout | None"] = contextvars.ContextVar("layout", default=None)
_portable: contextvars.ContextVar[bool] = contextvars.ContextVar("portable_trace", default=False)


@contextlib.contextmanager
def portable_trace() -> Iterator[None]:
    """Trace code independently of the machine: ``platform()`` is "none" and ``constrain`` is the identity.

    Every layer then uses its plain implementation instead of a platform's kernels, so its FLOPs can be counted
    (train/flops.py).
    """
    layout, flag = _current.set(None), _portable.set(True)
    try:
        yield
    finally:
        _current.reset(layout)
        _portable.reset(flag)


def constrain(x: Array, *axes: str | None) -> Array:
    """Constrain the sharding of an activation by its logical axes, one per dimension.

    Outside of ``Layout.jit`` it is the identity. The constraint is only a hint to XLA. A dimension whose size is not a
    multiple of its mesh axes, such as the prompts of a request, is therefore not sharded. For parameters and batches
    such a size is an error.
    """
    layout = _current.get()
    if layout is None or layout.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(
        x, layout.sharding(layout.divisible_axes(axes, x.shape), x.shape, "activation")
    )


def axis_after_batch(rows: int) -> str:
    """Return the logical axis of the dimension after ``rows`` of a batch: SEQ, or CANDIDATES.

    Sampling splits the candidates [P M ...] of a number of prompts that does not divide.
    """
    layout = _current.get()
    return SEQ if layout is None or layout.divides(rows, BATCH) else CANDIDATES


def by_rows(x: Array) -> Array:
    """Constrain an array whose first dimension is BATCH, and which is not split in any other."""
    return constrain(x, BATCH, *(None,) * (x.ndim - 1))


def whole(weights: Array, axis: str) -> Array:
    """Gather weights that are stored in shards along ``axis`` for their product with a batch.

    If the mesh axes of ``axis`` also shard the batch, XLA may gather the activations of a convolution in place of its
    kernel, and then every device holds the whole batch. Otherwise ``axis`` stays sharded, and this is the identity.
    """
    layout = _current.get()
    if layout is None or layout.mesh.size == 1 or not set(layout.mesh_axes(axis)) <= set(layout.mesh_axes(BATCH)):
        return weights
    return constrain(weights, *(None,) * weights.ndim)


def axis_parts(axis: str) -> int:
    """Return the number of shards of a logical axis under the current layout; 1 outside of ``Layout.jit``."""
    layout = _current.get()
    return 1 if layout is None else layout.parts(axis)


def batch_parts() -> int:
    """Return the number of shards of the batch under the current layout; 1 outside of ``Layout.jit``."""
    return axis_parts(BATCH)


def on_each_device(function: Callable[..., Array], axes: Axes, *arrays: Array) -> Array:
    """Call ``function`` on each device with that device's shards. All arrays have the same shape and logical ``axes``.

    It is for kernels that XLA cannot partition; the result of a shard must not depend on other shards. A dimension
    whose size is not a multiple of its mesh axes is not sharded. Outside of ``Layout.jit`` and on one device it is a
    plain call.
    """
    return map_shards(function, (axes,) * len(arrays), axes, *arrays)


def map_shards(function: Callable[..., R], axes: Sequence[Axes], out_axes: Axes, *arrays: Array) -> R:
    """Do what ``on_each_device`` does for arrays that differ in shape; ``axes`` has the logical axes of each.

    All dimensions with the same axis must have the same size. Results have that size too, where ``out_axes`` has it.
    """
    layout = _current.get()
    if layout is None or layout.mesh.size == 1:
        return function(*arrays)
    found = [layout.divisible_axes(own, array.shape) for own, array in zip(axes, arrays, strict=True)]
    kept = {axis for own in found for axis in own}
    specs = tuple(map(layout.spec, found))
    out = layout.spec([axis if axis in kept else None for axis in out_axes])
    return jax.shard_map(function, mesh=layout.mesh, in_specs=specs, out_specs=out, check_vma=False)(*arrays)


def platform() -> str:
    """Return the platform of the code being traced: "cpu", "gpu" or "tpu"; "none" in a ``portable_trace``."""
    if _portable.get():
        return "none"
    layout = _current.get()
    name = jax.default_backend() if layout is None else layout.platform
    return "gpu" if name in ("cuda", "rocm") else name


def compiler_options(name: str | None = None) -> dict[str, int] | None:
    """Return the XLA compiler options of a platform, by default the current one; None if it has none.

    On a CPU, LLVM's optimization level is 1, since most time is spent in library calls. A training step with sparse
    attention then compiled in 10.3 CPU seconds instead of 14.6, and no timed program became slower
    (docs/architecture.md). A level set in ``XLA_FLAGS`` takes precedence.
    """
    if (name or platform()) != "cpu" or "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", ""):
        return None
    return {"xla_backend_optimization_level": 1}


class JitOptions(TypedDict, total=False):
    """The keyword arguments of ``jax.jit`` that callers may pass."""

    in_shardings: PyTree
    out_shardings: PyTree
    donate_argnums: int
    static_argnames: str | tuple[str, ...]


def jit(function: Callable[..., R], **options: Unpack[JitOptions]) -> Callable[..., R]:
    """Call ``jax.jit`` with ``compiler_options``, for a program that runs without a ``Layout``."""
    return jax.jit(function, compiler_options=compiler_options(), **options)


@runtime_checkable
class Shaped(Protocol):
    """An array, or the abstract value of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""


class Layout:
    """A mesh, and the rules that map logical axes to its axes."""

    def __init__(self, mesh: jax.sharding.Mesh, rules: Rules):
        check_rules(rules, mesh)
        self.mesh = mesh
        self.rules = rules
        self.platform = mesh.devices.flat[0].platform

    @property
    def is_local(self) -> bool:
        """True if all devices of the mesh belong to this process."""
        return all(device.process_index == jax.process_index() for device in self.mesh.devices.flat)

    def spec(self, axes: Axes) -> PartitionSpec:
        """Return the mesh axes of each dimension, without axes that an earlier dimension uses."""
        taken: set[str] = set()
        entries: list[tuple[str, ...] | str | None] = []
        for axis in axes:
            wanted = self.mesh_axes(axis)
            free = tuple(name for name in wanted if name not in taken)
            taken.update(free)
            entries.append(free[0] if len(free) == 1 else free or None)
        while entries and entries[-1] is None:
            entries.pop()
        return PartitionSpec(*entries)

    def mesh_axes(self, axis: str | None) -> tuple[str, ...]:
        """Return the axes of this mesh that shard a logical axis."""
        wanted = () if axis is None else self.rules.mesh_axes(axis)
        return tuple(name for name in wanted if name in self.mesh.shape)

    def parts(self, axis: str | None) -> int:
        """Return the number of shards of a logical axis."""
        return math.prod(self.mesh.shape[name] for name in self.mesh_axes(axis))

    def divides(self, size: int, axis: str | None) -> bool:
        """Return True if ``size`` is a multiple of the number of shards of ``axis``."""
        return size % self.parts(axis) == 0

    def divisible_axes(self, axes: Axes, shape: Sequence[int]) -> list[str | None]:
        """Return the logical axes of an array, with None for each dimension that cannot be divided into its shards."""
        return [axis if self.divides(size, axis) else None for size, axis in zip(shape, axes, strict=True)]

    def sharding(self, axes: Axes, shape: Sequence[int], name: str) -> NamedSharding:
        """Return the sharding of one array.

        If ``axes`` has fewer entries than ``shape``, the first dimensions are LAYERS.

        ``name`` is the array's name in errors. Raises UserError if a dimension cannot be divided into its shards.
        """
        if len(axes) > len(shape):
            raise ValueError(f"{name} of shape {tuple(shape)} has {len(shape)} dimensions but axes {tuple(axes)}")
        axes = (*(LAYERS,) * (len(shape) - len(axes)), *axes)
        spec = self.spec(axes)
        for size, axis, entry in zip(shape, axes, spec, strict=False):
            self._check_divides(size, axis, entry, name)
        return NamedSharding(self.mesh, spec)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of an array that is whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def state_shardings(self, state: PyTree) -> PyTree:
        """Return the shardings of a tree of nnx variables (abstract or not), by their ``axes`` metadata.

        A variable without axes is replicated. The result has one sharding per variable, so it is a prefix tree, as
        ``out_shardings`` takes it.
        """

        def sharding_of(path: tuple[object, ...], leaf: object) -> NamedSharding:
            if not isinstance(leaf, nnx.Variable) or (axes := leaf.get_metadata().get("axes")) is None:
                return self.replicated
            return self.sharding(axes, leaf.get_value().shape, "parameter " + jax.tree_util.keystr(path))

        return jax.tree_util.tree_map_with_path(sharding_of, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def batch_shardings(self, spec: Mapping[str, Shaped]) -> dict[str, NamedSharding]:
        """Return the shardings of a batch, in which the first dimension of every array is BATCH."""
        return {
            name: self.sharding(_batch_axes(array.shape), array.shape, f"batch {name!r}")
            for name, array in spec.items()
        }

    def put_batch(self, batch: Mapping[str, np.ndarray], rows: int | None = None) -> dict[str, Array]:
        """Place a batch of host arrays on the devices, sharded along its first dimension.

        ``rows`` is the number of rows of the global batch, over all processes. In a run of several processes, each
        process passes only the rows that ``local_rows(rows)`` names.
        """
        arrays = {}
        for name, local in batch.items():
            shape = (local.shape[0] if rows is None else rows, *local.shape[1:])
            sharding = self.sharding(_batch_axes(shape), shape, f"batch {name!r}")
            arrays[name] = jax.make_array_from_process_local_data(sharding, local, shape)
        return arrays

    def local_rows(self, rows: int) -> np.ndarray:
        """Return the indices, in order, of the rows that this process must pass to ``put_batch``.

        ``rows`` is the number of rows of the global batch.
        """
        sharding = self.sharding((BATCH,), (rows,), "batch")
        indices = sharding.addressable_devices_indices_map((rows,)).values()
        return np.unique(np.concatenate([np.arange(rows)[index] for index in indices if index is not None]))

    def jit(self, fn: Callable[..., R], **options: Unpack[JitOptions]) -> "LayoutJit[R]":
        """Call ``jax.jit``; inside the function, ``constrain`` and ``platform`` use this layout."""
        return LayoutJit(self, fn, options)

    def _check_divides(self, size: int, axis: str | None, entry: tuple[str, ...] | str | None, name: str) -> None:
        names = (entry,) if isinstance(entry, str) else entry or ()
        parts = 1
        for mesh_axis in names:
            parts *= self.mesh.shape[mesh_axis]
        if size % parts:
            below, above = size // parts * parts, (size // parts + 1) * parts
            nearest = f"{below} or {above}" if below else f"{above}"
            raise UserError(
                f"{name}: expected dimension {axis!r} of size {size} to be a multiple of the mesh axes "
                f"{' and '.join(names)} of {parts} devices; the nearest sizes that work are {nearest} (or shard it "
                f"over fewer axes: rules.{axis})"
            )


def check_rules(rules: Rules, mesh: jax.sharding.Mesh) -> None:
    """Raise UserError if a rule names a mesh axis that does not exist."""
    known = {*MESH_AXES, SLICES, *mesh.axis_names}
    for field in dataclasses.fields(rules):
        for name in getattr(rules, field.name):
            if name not in known:
                legal = ", ".join((*MESH_AXES, SLICES))
                raise UserError(
                    f"rules.{field.name}: expected mesh axes of {legal}, got {name!r}{did_you_mean(name, known)}"
                )


def check_microbatch(rows: int, parts: int) -> None:
    """Raise UserError if the devices cannot share a microbatch equally; each device would then compute all of it."""
    layout = _current.get()
    if layout is None or layout.divides(rows // parts, BATCH):
        return
    devices = layout.parts(BATCH)
    raise UserError(
        f"batch size: expected a multiple of {devices * parts} (accumulate={parts} times {devices} devices), "
        f"got {rows}, which leaves {rows // parts} rows in each microbatch"
    )


class LayoutJit(Generic[R]):
    """A jitted function that runs under its layout's mesh."""

    def __init__(self, layout: Layout, fn: Callable[..., R], options: JitOptions):
        @functools.wraps(fn)
        def traced(*args: PyTree, **kwargs: PyTree) -> R:
            token = _current.set(layout)
            try:
                return fn(*args, **kwargs)
            finally:
                _current.reset(token)

        self._layout = layout
        self._jitted = jax.jit(traced, compiler_options=compiler_options(layout.platform), **options)

    def __call__(self, *args: PyTree, **kwargs: PyTree) -> R:
        """Call the compiled function."""
        if _current.get() is self._layout:
            return self._jitted(*args, **kwargs)
        with jax.set_mesh(self._layout.mesh):
            return self._jitted(*args, **kwargs)

    def lower(self, *args: PyTree, **kwargs: PyTree) -> Lowered:
        """Trace and lower without running, as ``jax.jit(...).lower`` does."""
        with jax.set_mesh(self._layout.mesh):
            return self._jitted.lower(*args, **kwargs)

    def trace(self, *args: PyTree, **kwargs: PyTree) -> Traced:
        """Trace without running, as ``jax.jit(...).trace`` does; the result has a ``jaxpr`` and ``lower()``.

        The mesh is not set as the current one. It may belong to a topology without devices, on which JAX would place
        constants computed while tracing (the masks of a kernel). All shardings in the trace name their mesh.
        """
        return self._jitted.trace(*args, **kwargs)

    def compiles(self) -> int:
        """Return for how many different shapes and dtypes of arguments the function was compiled."""
        return self._jitted._cache_size()  # type: ignore[attr-defined]


def _batch_axes(shape: Sequence[int]) -> tuple[str | None, ...]:
    return (BATCH, *(None,) * (len(shape) - 1))
