"""A trained network on the devices of a layout, and functions of it that are compiled there."""

import copy
from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

import jax
from flax import nnx

from dalle_jax.arrays import Array, PyTree
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.layout import JitOptions, Layout, LayoutJit, portable_trace
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.row_placement import put, put_rows
from dalle_jax.parallel.rules import Rules
from dalle_jax.train.flops import count

N = TypeVar("N")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def one_device() -> Layout:
    """Return the layout of this process's first device."""
    return Layout(make_mesh(Mesh(), jax.local_devices()[:1]), Rules())


def local_layout(mesh: Mesh = Mesh(), rules: Rules = Rules()) -> Layout:  # noqa: B008 (frozen)
    """Return a layout of this process's devices."""
    return Layout(make_mesh(mesh, jax.local_devices()), rules)


class CompiledNetwork(Generic[N]):
    """A trained network with its parameters placed by a layout; parts of a pipeline may share the network."""

    def __init__(self, network: N, layout: Layout | None = None) -> None:
        """Move the network's own parameters to the devices, so that sharing it needs no second copy."""
        self.layout = one_device() if layout is None else layout
        self._graph, state = nnx.split(network)
        self._state = put(self.layout, state, self.layout.state_shardings(state))
        nnx.update(network, self._state)

    @property
    def parts(self) -> int:
        """The number of devices that share the rows of a call."""
        return self.layout.parts(BATCH)

    def changed(self, change: Callable[[N], N]) -> "CompiledNetwork[N]":
        """Return the network that ``change`` makes of this one. Parameters that it leaves as they are are shared."""
        new = copy.copy(self)

        def run(state: PyTree) -> PyTree:
            new._graph, changed = nnx.split(change(nnx.merge(self._graph, state)))
            return changed

        new._state = self.layout.jit(run)(self._state)
        return new

    def jit(
        self, function: Callable[Concatenate[N, P], R], static_argnames: tuple[str, ...] = (), sharded: bool = False
    ) -> "NetworkFunction[P, R]":
        """Compile a function of the network and further arguments, once for each of their shapes.

        With several processes each gets the whole result, unless the result is to stay ``sharded``.
        """
        parameters, rebuilt = self._flattened()

        def run(parameters: list[Array], *args: P.args, **kwargs: P.kwargs) -> R:
            return function(rebuilt(parameters), *args, **kwargs)

        options: JitOptions = {"static_argnames": static_argnames}
        if not (self.layout.is_local or sharded):  # so that every process can read the results
            options["out_shardings"] = self.layout.replicated
        return NetworkFunction(self.layout.jit(run, **options), run, parameters, self.layout)

    def jit_update(
        self, function: Callable[Concatenate[N, S, P], R], shardings: PyTree = None
    ) -> "StateUpdate[P, S, R]":
        """Compile a function of the network that replaces a state on the devices, such as that of a loop.

        ``shardings`` are those of the result, which is or has the new state; None leaves them to the compiler.
        """
        parameters, rebuilt = self._flattened()

        def run(parameters: list[Array], state: S, *args: P.args, **kwargs: P.kwargs) -> R:
            return function(rebuilt(parameters), state, *args, **kwargs)

        return StateUpdate(self.layout.jit(run, donate_argnums=1, out_shardings=shardings), parameters, self.layout)

    def _flattened(self) -> tuple[list[Array], Callable[[list[Array]], N]]:
        """Return the parameters as a list, and a function from such a list to the network.

        A call flattens its arguments, and the variables of NNX one by one in Python.
        """
        parameters, tree = jax.tree.flatten(self._state)
        graph = self._graph
        return parameters, lambda given: nnx.merge(graph, jax.tree.unflatten(tree, given))


class NetworkFunction(Generic[P, R]):
    """A compiled function with the parameters of its network as the first argument."""

    def __init__(
        self, compiled: LayoutJit[R], function: Callable[..., R], parameters: list[Array], layout: Layout
    ) -> None:
        self._compiled, self._function, self._parameters, self._layout = compiled, function, parameters, layout

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the compiled function with the network's parameters; keyword arguments are static.

        Array arguments are split over the devices by their rows (parallel/row_placement.py). With several processes
        each must call it with the same arguments.
        """
        return self._compiled(self._parameters, *put_rows(self._layout, args), **kwargs)

    def flops(self, *args: P.args, **kwargs: P.kwargs) -> float:
        """Return the FLOPs of the products of a call with arguments of these shapes (train/flops.py)."""
        with portable_trace():
            return count(jax.make_jaxpr(lambda *given: self._function(*given, **kwargs))(self._parameters, *args)).total

    def compiles(self) -> int:
        """Return the number of signatures that are compiled."""
        return self._compiled.compiles()


class StateUpdate(Generic[P, S, R]):
    """A compiled function of a network that replaces a state and takes over its memory (donation)."""

    def __init__(self, compiled: LayoutJit[R], parameters: list[Array], layout: Layout) -> None:
        self._compiled, self._parameters, self._layout = compiled, parameters, layout

    def __call__(self, state: S, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the new state; the old one can no longer be used. Arguments are placed as in ``NetworkFunction``."""
        return self._compiled(self._parameters, state, *put_rows(self._layout, args), **kwargs)

    def compiles(self) -> int:
        """Return the number of signatures that are compiled."""
        return self._compiled.compiles()
