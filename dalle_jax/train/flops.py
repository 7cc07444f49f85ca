"""FLOPs of a traced function, counted from its jaxpr: matrix products and convolutions.

A multiply-add is two operations. Other operations (norms, softmax, elementwise work of optimizers) are not counted, as
is usual for utilisation. XLA's own count is not used, since it counts the body of a loop once.

Model FLOPs of a step are those that its loss needs. A product that depends on a trained parameter counts three times
(forward, and two for gradients), any other product once (such as a frozen tokenizer's). Attention counts all pairs,
independent of mask and kernel (arXiv 2204.02311, appendix B). Hardware FLOPs are those of the step that runs, with
rematerialisation, the blocks that a kernel visits, and the optimizer's products. MFU and HFU are these two numbers
divided by time and by the peak of the chips.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from dalle_jax.arrays import Array, PyTree
from dalle_jax.parallel.layout import portable_trace
from dalle_jax.train.microbatches import Bound
from dalle_jax.train.state import Arrays, ModuleSpec, StateSpec
from dalle_jax.train.task import CachedEmbeddings, Frozen, Objective, Task


@dataclass(frozen=True)
class Count:
    """FLOPs of a jaxpr's products: ``moved`` if they depend on a marked input, else ``fixed``.

    The function ``count`` is told which inputs are marked; for model FLOPs they are the trained parameters.
    ``uncounted`` has the names of primitives without a known count.
    """

    fixed: float = 0.0
    moved: float = 0.0
    uncounted: frozenset[str] = frozenset()

    @property
    def total(self) -> float:
        """The FLOPs of all products, ``moved`` plus ``fixed``."""
        return self.fixed + self.moved

    def __add__(self, other: "Count") -> "Count":
        return Count(self.fixed + other.fixed, self.moved + other.moved, self.uncounted | other.uncounted)

    def times(self, count: int) -> "Count":
        """Return the FLOPs of ``count`` repetitions."""
        return Count(self.fixed * count, self.moved * count, self.uncounted)


def count(jaxpr: ClosedJaxpr | Jaxpr, marked: Sequence[bool] | None = None) -> Count:
    """Count the products of a jaxpr; ``marked`` has a flag for each input, by default False."""
    inner = _open(jaxpr)
    return _walk(inner, [False] * len(inner.invars) if marked is None else marked)[0]


def model_flops(
    task: Task,
    state_spec: StateSpec,
    frozen: ModuleSpec[Frozen],
    batch: Mapping[str, jax.ShapeDtypeStruct],
    accumulate: int,
) -> Count:
    """Return the model FLOPs of a training step on a batch of these shapes; ``moved`` includes the factor of three."""
    total = Count()
    abstract = state_spec.abstract
    learned = abstract.learned
    for objective in task.objectives():
        all_pairs = isinstance(objective.microbatches, CachedEmbeddings)
        parts = 1 if all_pairs else accumulate
        rows = {name: jax.ShapeDtypeStruct((s.shape[0] // parts, *s.shape[1:]), s.dtype) for name, s in batch.items()}
        trained = {name: learned.params[name] for name in state_spec.trainable[objective.name]}
        rest = {
            "params": {name: value for name, value in learned.params.items() if name not in trained},
            "non_params": learned.non_params,
            "frozen": frozen.stored(),
            "batch": rows,
            "step": abstract.counted.step,
            "seed": jax.ShapeDtypeStruct((), np.uint32),
        }

        def loss(trained: Arrays, rest: dict[str, PyTree], objective: Objective = objective) -> Array:
            fixed = partial(frozen.merge, rest["frozen"])
            bound = Bound(objective, state_spec.module_spec, fixed, rest["params"], rest["step"])
            return bound.loss(trained, rest["non_params"], rest["batch"], jax.random.key(rest["seed"]))[0]

        with portable_trace():
            jaxpr = jax.make_jaxpr(loss)(trained, rest)
        found = count(jaxpr, [True] * len(trained) + [False] * len(jax.tree.leaves(rest)))
        total += Count(found.fixed, 3 * found.moved, found.uncounted).times(parts)
    return total


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _walk(jaxpr: Jaxpr, marked: Sequence[bool]) -> tuple[Count, list[bool]]:
    """Return the count of a jaxpr, and for each output whether it depends on a marked input."""
    known = dict(zip(jaxpr.invars, marked, strict=True))
    found = Count()

    def is_marked(atom: Var | Literal) -> bool:
        return not isinstance(atom, Literal) and known.get(atom, False)

    for eqn in jaxpr.eqns:
        inputs = [is_marked(atom) for atom in eqn.invars]
        here, outputs = _equation(eqn, inputs)
        found += here
        known.update(zip(eqn.outvars, outputs, strict=True))
    return found, [is_marked(atom) for atom in jaxpr.outvars]


def _equation(eqn: JaxprEqn, inputs: list[bool]) -> tuple[Count, list[bool]]:
    name, touched = eqn.primitive.name, any(inputs)
    everywhere = [touched] * len(eqn.outvars)
    if name in PRODUCTS:
        flops = float(PRODUCTS[name](eqn))
        return (Count(moved=flops) if touched else Count(fixed=flops)), everywhere
    if name in OPAQUE:
        return Count(uncounted=frozenset({name})), everywhere
    if name in LOOPS:
        return LOOPS[name](eqn, inputs)
    inner = [jaxpr for value in eqn.params.values() for jaxpr in _jaxprs(value)]
    if name in CALLS and len(inner) == 1 and len(inner[0].invars) == len(inputs):
        return _walk(inner[0], inputs)
    found = sum((_all_or_nothing(jaxpr, touched) for jaxpr in inner), Count())
    if found.total and name not in CALLS:  # how often it runs its body is not known
        found = Count(uncounted=found.uncounted | {name})
    return found, everywhere


def _jaxprs(value: object) -> list[Jaxpr]:
    values = value if isinstance(value, tuple | list) else (value,)
    return [_open(one) for one in values if isinstance(one, ClosedJaxpr | Jaxpr)]


def _all_or_nothing(jaxpr: Jaxpr, touched: bool) -> Count:
    """Count a body whose inputs cannot be matched with the inputs of its call.

    All of its products are ``moved`` if ``touched`` is True, else all are ``fixed``.
    """
    found = _walk(jaxpr, [False] * len(jaxpr.invars))[0]
    return Count(0.0, found.total, found.uncounted) if touched else found


def _settled(body: Jaxpr, fixed: list[bool], carry: list[bool], rest: list[bool]) -> tuple[Count, list[bool]]:
    """Count a loop body whose outputs begin with the next carry, and find which outputs depend on a marked input.

    Walk the body until the marks of the carry no longer change.
    """
    while True:
        found, outputs = _walk(body, [*fixed, *carry, *rest])
        grown = [old or new for old, new in zip(carry, outputs, strict=False)]
        if grown == carry:
            return found, carry + outputs[len(carry) :]
        carry = grown


def _scan(eqn: JaxprEqn, inputs: list[bool]) -> tuple[Count, list[bool]]:
    body, params = _open(eqn.params["jaxpr"]), eqn.params
    if "num_carry" in params:
        consts, carries = params["num_consts"], params["num_carry"]
    else:  # JAX 0.12 keeps the three parts of the inputs as trees
        consts, carries = (len(part) for part in params["ft_in"].unpack()[:2])
    carry, rest = inputs[consts : consts + carries], inputs[consts + carries :]
    found, outputs = _settled(body, inputs[:consts], carry, rest)
    return found.times(params["length"]), outputs


def _while(eqn: JaxprEqn, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """Walk a while loop. Its trip count is unknown, so its products are reported as uncounted."""
    test, body = _open(eqn.params["cond_jaxpr"]), _open(eqn.params["body_jaxpr"])
    of_test, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    found, outputs = _settled(body, inputs[of_test : of_test + of_body], inputs[of_test + of_body :], [])
    found += _walk(test, [False] * len(test.invars))[0]
    return Count(uncounted=found.uncounted | ({"while"} if found.total else set())), outputs


def _cond(eqn: JaxprEqn, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """Return the count of the branch with the most FLOPs."""
    walked = [_walk(_open(branch), inputs[1:]) for branch in eqn.params["branches"]]
    largest = max((found for found, _ in walked), key=lambda found: found.total)
    names = frozenset().union(*(found.uncounted for found, _ in walked))
    outputs = [inputs[0] or any(marks) for marks in zip(*(outputs for _, outputs in walked), strict=True)]
    return replace(largest, uncounted=names), outputs


def _shard_map(eqn: JaxprEqn, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """Multiply the count of the body by the number of devices, since each runs it on its shard."""
    mesh, names = eqn.params["mesh"], eqn.params.get("manual_axes") or eqn.params.get("newly_manual_axes")
    devices = math.prod(mesh.shape[name] for name in (mesh.axis_names if names is None else names))
    found, outputs = _walk(_open(eqn.params["jaxpr"]), inputs)
    return found.times(devices), outputs


def _pallas_call(eqn: JaxprEqn, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """Return the cost estimate that the kernel declares.

    Without one, return an upper bound: its body at every grid point.

    The grid of a splash kernel has only the blocks that the mask of some head needs, so the bound is close.
    """
    touched = any(inputs)
    outputs = [touched] * len(eqn.outvars)
    estimate, grid = eqn.params.get("cost_estimate"), eqn.params["grid_mapping"].grid
    if estimate is not None and estimate.flops:
        flops = float(estimate.flops)
        return (Count(moved=flops) if touched else Count(fixed=flops)), outputs
    found = _all_or_nothing(_open(eqn.params["jaxpr"]), touched)
    if not all(isinstance(size, int | np.integer) for size in grid):
        return Count(uncounted=found.uncounted | ({"pallas_call"} if found.total else set())), outputs
    return found.times(math.prod(int(size) for size in grid)), outputs


def _shape(atom: Var | Literal) -> tuple[int, ...]:
    return atom.aval.shape  # type: ignore[attr-defined]  # declared for shaped values only


def _dot_general(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = _shape(eqn.invars[0])
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: JaxprEqn) -> int:
    """Return the FLOPs of a convolution, without products by the zeros of its padding or of a dilated input."""
    params, (left, right), out = eqn.params, map(_shape, eqn.invars), _shape(eqn.outvars[0])
    numbers = params["dimension_numbers"]
    met = 1
    for i, (x, w, y) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)):
        steps, dilation = params["window_strides"][i], params["lhs_dilation"][i]
        begins = np.arange(out[y])[:, None] * steps - params["padding"][i][0]
        places = begins + np.arange(right[w])[None, :] * params["rhs_dilation"][i]
        inside = (places >= 0) & (places <= (left[x] - 1) * dilation) & (places % dilation == 0)
        met *= int(inside.sum())
    values = out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    return 2 * values * right[numbers.rhs_spec[1]] * met  # rhs_spec[1] has the input features of one group


def _cudnn_attention(products: int) -> Callable[[JaxprEqn], int]:
    """Return the rule for cuDNN attention with ``products`` products over all pairs (2 forward, 5 backward)."""

    def flops(eqn: JaxprEqn) -> int:
        query, key = _shape(eqn.invars[0]), _shape(eqn.invars[1])
        length = key[2] if int(eqn.params["layout"]) else key[1]  # BNTH is 1, BTNH is 0
        return products * 2 * math.prod(query) * length

    return flops


PRODUCTS: dict[str, Callable[[JaxprEqn], int]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd": _cudnn_attention(2),
    "dot_product_attention_fwd_wrapper": _cudnn_attention(2),
    "dot_product_attention_bwd": _cudnn_attention(5),
    "dot_product_attention_bwd_wrapper": _cudnn_attention(5),
}

OPAQUE = frozenset(
    {"cholesky", "eigh", "eig", "lu", "qr", "householder_product", "svd", "schur", "triangular_solve"}
    | {"ragged_dot_general", "scaled_matmul", "ffi_call", "custom_call", "custom_linear_solve"}
)
"""Matrix primitives without a known count; reports list them."""

LOOPS: dict[str, Callable[[JaxprEqn, list[bool]], tuple[Count, list[bool]]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "pallas_call": _pallas_call,
}

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "checkpoint", "remat", "remat2", "run_scoped"}
    | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_partitioning"}
)
"""Primitives that run their only jaxpr once."""
