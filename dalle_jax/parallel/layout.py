"""The only translator from logical axes to devices, the same for training, restoring, sampling and serving."""

import contextlib
import contextvars
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.parallel.axes import BATCH, LAYERS
from dalle_jax.parallel.mesh import MESH_AXES, SLICES
from dalle_jax.parallel.rules import Rules

Axes = Sequence[str | None]

_current: contextvars.ContextVar["Layout | None"] = contextvars.ContextVar("layout", default=None)
_nowhere: contextvars.ContextVar[bool] = contextvars.ContextVar("nowhere", default=False)


@contextlib.contextmanager
def portable_trace() -> Iterator[None]:
    """While it is open what is traced is only looked at: ``platform`` says "none" and ``constrain`` does nothing.

    So every layer is traced in its plainest form, the same on every machine, and can be counted (train/flops.py).
    """
    layout, flag = _current.set(None), _nowhere.set(True)
    try:
        yield
    finally:
        _current.reset(layout)
        _nowhere.reset(flag)


def constrain(x: Array, *axes: str | None) -> Array:
    """Lays an activation out by its logical axes, one per dimension; the identity outside ``Layout.jit``.

    It is a hint, so a dimension that its mesh axes do not divide (the prompts of a request and the empty prompt, say)
    stays whole; for parameters and batches that is an error.
    """
    layout = _current.get()
    if layout is None or layout.mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(
        x, layout.sharding(layout.divisible_axes(axes, x.shape), x.shape, "activation")
    )


def on_each_device(function: Callable[..., Array], axes: Axes, *arrays: Array) -> Array:
    """What the function gives for arrays of one shape laid out by ``axes``, each device calling it with its own part.

    For kernels that the compiler cannot split: no part may depend on another. A dimension that its mesh axes do not
    divide is whole on every device. Outside ``Layout.jit`` and on one device it is a plain call.
    """
    layout = _current.get()
    if layout is None or layout.mesh.size == 1:
        return function(*arrays)
    spec = layout.spec(layout.divisible_axes(axes, arrays[0].shape))
    specs = (spec,) * len(arrays)
    return jax.shard_map(function, mesh=layout.mesh, in_specs=specs, out_specs=spec, check_vma=False)(*arrays)


def platform() -> str:
    """What the code being traced will run on: "cpu", "gpu" or "tpu"; "none" inside ``nowhere``."""
    if _nowhere.get():
        return "none"
    layout = _current.get()
    name = jax.default_backend() if layout is None else layout.platform
    return "gpu" if name in ("cuda", "rocm") else name


def compiler_options(name: str | None = None) -> dict[str, Any] | None:
    """What XLA is told when it compiles for a platform, by default the current one.

    On a CPU the products are in libraries, so what LLVM does beyond its first level buys little: without it the
    training step with row, column and convolutional attention compiled in 10.3 CPU seconds instead of 14.6, and no
    program that was timed became slower (docs/architecture.md says which). A level set in ``XLA_FLAGS`` rules.
    """
    if (name or platform()) != "cpu" or "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", ""):
        return None
    return {"xla_backend_optimization_level": 1}


def jit(function: Callable[..., Any], **kwargs: Any) -> Any:
    """``jax.jit`` with ``compiler_options``, for a program that is called without a ``Layout``."""
    return jax.jit(function, compiler_options=compiler_options(), **kwargs)


class Layout:
    """A mesh and the rules that say which of its axes each logical axis is split over."""

    def __init__(self, mesh: jax.sharding.Mesh, rules: Rules):
        check_rules(rules, mesh)
        self.mesh = mesh
        self.rules = rules
        self.platform = mesh.devices.flat[0].platform

    def spec(self, axes: Axes) -> PartitionSpec:
        """Mesh axes for each dimension; one that an earlier dimension has taken is left out."""
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
        """The axes of this mesh that a logical axis is split over."""
        wanted = () if axis is None else self.rules.mesh_axes(axis)
        return tuple(name for name in wanted if name in self.mesh.shape)

    def parts(self, axis: str | None) -> int:
        """How many devices a dimension is split over."""
        return math.prod(self.mesh.shape[name] for name in self.mesh_axes(axis))

    def divides(self, size: int, axis: str | None) -> bool:
        """Whether a dimension of that size can be split as the rules say."""
        return size % self.parts(axis) == 0

    def divisible_axes(self, axes: Axes, shape: Sequence[int]) -> list[str | None]:
        """The axes of an array's dimensions, None in place of those that cannot be split as the rules say."""
        return [axis if self.divides(size, axis) else None for size, axis in zip(shape, axes, strict=True)]

    def sharding(self, axes: Axes, shape: Sequence[int], name: str) -> NamedSharding:
        """The sharding of one array; ``name`` is what an error calls it. Leading unnamed dimensions are LAYERS."""
        if len(axes) > len(shape):
            raise ValueError(f"{name} of shape {tuple(shape)} has {len(shape)} dimensions but axes {tuple(axes)}")
        axes = (*(LAYERS,) * (len(shape) - len(axes)), *axes)
        spec = self.spec(axes)
        for size, axis, entry in zip(shape, axes, spec, strict=False):
            self._check_divides(size, axis, entry, name)
        return NamedSharding(self.mesh, spec)

    @property
    def replicated(self) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def state_shardings(self, state: Any) -> Any:
        """Shardings for a tree of nnx variables (abstract or not), by their ``axes``; what names none is replicated.

        Each variable is replaced by one sharding, so the result is a prefix tree, fit for ``out_shardings``.
        """

        def one(path: Any, leaf: Any) -> NamedSharding:
            axes = leaf.get_metadata().get("axes") if isinstance(leaf, nnx.Variable) else None
            if axes is None:
                return self.replicated
            return self.sharding(axes, leaf.get_value().shape, "parameter " + jax.tree_util.keystr(path))

        return jax.tree_util.tree_map_with_path(one, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def batch_shardings(self, spec: Mapping[str, Any]) -> dict[str, NamedSharding]:
        """Shardings of a batch: the first dimension of every array (anything with a shape) is BATCH."""
        return {
            name: self.sharding(_batch_axes(array.shape), array.shape, f"batch {name!r}")
            for name, array in spec.items()
        }

    def put_batch(self, batch: Mapping[str, np.ndarray], rows: int | None = None) -> dict[str, Array]:
        """Host arrays to sharded ones. With many processes each gives its ``local_rows`` of ``rows`` in all."""
        arrays = {}
        for name, local in batch.items():
            shape = (local.shape[0] if rows is None else rows, *local.shape[1:])
            sharding = self.sharding(_batch_axes(shape), shape, f"batch {name!r}")
            arrays[name] = jax.make_array_from_process_local_data(sharding, local, shape)
        return arrays

    def local_rows(self, rows: int) -> np.ndarray:
        """Which rows of a batch of ``rows`` this process must give, in order, found through the sharding itself."""
        sharding = self.sharding((BATCH,), (rows,), "batch")
        indices = sharding.addressable_devices_indices_map((rows,)).values()
        return np.unique(np.concatenate([np.arange(rows)[index] for index in indices if index is not None]))

    def jit(self, fn: Callable[..., Any], **jit_kwargs: Any) -> "LayoutJit":
        """Like ``jax.jit``, but traced and called with this layout current: ``constrain`` and ``platform`` see it."""
        return LayoutJit(self, fn, jit_kwargs)

    def _check_divides(self, size: int, axis: str | None, entry: Any, name: str) -> None:
        names = (entry,) if isinstance(entry, str) else entry or ()
        parts = 1
        for mesh_axis in names:
            parts *= self.mesh.shape[mesh_axis]
        if size % parts:
            below, above = size // parts * parts, (size // parts + 1) * parts
            nearest = f"{below} or {above}" if below else f"{above}"
            raise UserError(
                f"{name}: dimension {axis!r} of size {size} is split over mesh axis {' and '.join(names)} of {parts} "
                f"devices, which does not divide it; the nearest sizes that work are {nearest} (or split it over less: "
                f"rules.{axis})"
            )


def check_rules(rules: Rules, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError for mesh axes in the rules that no mesh has."""
    known = {*MESH_AXES, SLICES, *mesh.axis_names}
    for field in dataclasses.fields(rules):
        for name in getattr(rules, field.name):
            if name not in known:
                legal = ", ".join((*MESH_AXES, SLICES))
                raise UserError(
                    f"rules.{field.name}: expected mesh axes of {legal}, got {name!r}{did_you_mean(name, known)}"
                )


def check_microbatch(rows: int, parts: int) -> None:
    """Raises UserError where a microbatch cannot be spread over the devices, which would each compute all of it."""
    layout = _current.get()
    if layout is None or layout.divides(rows // parts, BATCH):
        return
    devices = layout.parts(BATCH)
    raise UserError(
        f"accumulate={parts} leaves {rows // parts} rows of the batch of {rows} in each microbatch, which the mesh "
        f"splits over {devices} devices; the batch must be a multiple of {devices * parts}"
    )


class LayoutJit:
    """A jitted function that runs under its layout's mesh."""

    def __init__(self, layout: Layout, fn: Callable[..., Any], jit_kwargs: dict[str, Any]):
        @functools.wraps(fn)
        def traced(*args: Any, **kwargs: Any) -> Any:
            token = _current.set(layout)
            try:
                return fn(*args, **kwargs)
            finally:
                _current.reset(token)

        self._layout = layout
        self._jitted: Any = jax.jit(traced, compiler_options=compiler_options(layout.platform), **jit_kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the compiled function."""
        if _current.get() is self._layout:
            return self._jitted(*args, **kwargs)
        with jax.set_mesh(self._layout.mesh):
            return self._jitted(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Traces and lowers without running, as ``jax.jit(...).lower`` does."""
        with jax.set_mesh(self._layout.mesh):
            return self._jitted.lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Traces without running, as ``jax.jit(...).trace`` does: its ``jaxpr``, and ``lower()``.

        The mesh is not made current: it may be of devices that are only compiled for, and what a trace computes on the
        side (the masks of a kernel) would be sent there. Every sharding in it names its mesh.
        """
        return self._jitted.trace(*args, **kwargs)

    def compiles(self) -> int:
        """How many signatures it has been compiled for."""
        return self._jitted._cache_size()


def _batch_axes(shape: Sequence[int]) -> tuple[str | None, ...]:
    return (BATCH, *(None,) * (len(shape) - 1))
