"""Floating-point operations of a traced function, counted from its jaxpr: matrix products and convolutions.

A multiplication and an addition are two operations. Everything else (norms, softmax, optimizers' elementwise work) is
left out, as it is where utilisation is reported. XLA's own count sees the body of a loop once, so it is of no use here.

Model FLOPs of a step are those that its loss needs: every product that a trained parameter has a part in three times
(itself and the two of its gradient), every other one (a frozen tokenizer's) once. Attention counts all pairs, whatever
the mask and the kernel (arXiv 2204.02311, appendix B). Hardware FLOPs are those of the step that runs: with what is
computed a second time, the blocks that a kernel visits, and the optimizer's products. MFU is the first and HFU the
second, divided by time and by the chips' peak.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dalle_jax.parallel.layout import portable_trace
from dalle_jax.train.microbatches import Bound
from dalle_jax.train.state import ModuleSpec, StateSpec
from dalle_jax.train.task import CachedEmbeddings, Frozen, Objective, Task


@dataclass(frozen=True)
class Count:
    """FLOPs of products without and with a part of the marked inputs; ``uncounted`` names what has no known count."""

    fixed: float = 0.0
    moved: float = 0.0
    uncounted: frozenset[str] = frozenset()

    @property
    def total(self) -> float:
        """All of them."""
        return self.fixed + self.moved

    def __add__(self, other: "Count") -> "Count":
        return Count(self.fixed + other.fixed, self.moved + other.moved, self.uncounted | other.uncounted)

    def times(self, count: int) -> "Count":
        """The same, ``count`` times over."""
        return Count(self.fixed * count, self.moved * count, self.uncounted)


def count(jaxpr: ClosedJaxpr | Jaxpr, marked: Sequence[bool] | None = None) -> Count:
    """The products of a jaxpr; ``marked`` says of each of its inputs whether it marks what it has a part in."""
    inner = _open(jaxpr)
    return _walk(inner, [False] * len(inner.invars) if marked is None else marked)[0]


def model_flops(
    task: Task, plan: StateSpec, frozen: ModuleSpec[Frozen], batch: Mapping[str, jax.ShapeDtypeStruct], accumulate: int
) -> Count:
    """Model FLOPs of one training step on a batch of those shapes, as ``fixed`` (once) and ``moved`` (three times)."""
    total = Count()
    state = plan.abstract
    for objective in task.objectives():
        all_pairs = isinstance(objective.microbatches, CachedEmbeddings)
        parts = 1 if all_pairs else accumulate
        rows = {name: jax.ShapeDtypeStruct((s.shape[0] // parts, *s.shape[1:]), s.dtype) for name, s in batch.items()}
        trained = {name: state.params[name] for name in plan.trained[objective.name]}
        rest = {
            "params": {name: value for name, value in state.params.items() if name not in trained},
            "others": state.others,
            "frozen": frozen.stored(),
            "batch": rows,
            "step": state.step,
            "seed": jax.ShapeDtypeStruct((), np.uint32),
        }

        def loss(trained: Any, rest: Any, objective: Objective = objective) -> Any:
            bound = Bound(
                objective, plan.blueprint, partial(frozen.merge, rest["frozen"]), rest["params"], rest["step"]
            )
            return bound.loss(trained, rest["others"], rest["batch"], jax.random.key(rest["seed"]))[0]

        with portable_trace():
            jaxpr = jax.make_jaxpr(loss)(trained, rest)
        found = count(jaxpr, [True] * len(trained) + [False] * len(jax.tree.leaves(rest)))
        total += Count(found.fixed, 3 * found.moved, found.uncounted).times(parts)
    return total


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _walk(jaxpr: Any, marked: Sequence[bool]) -> tuple[Count, list[bool]]:
    """The count, and which outputs a marked input has a part in."""
    known = dict(zip(jaxpr.invars, marked, strict=True))
    found = Count()

    def is_marked(atom: Any) -> bool:
        return not isinstance(atom, Literal) and known.get(atom, False)

    for eqn in jaxpr.eqns:
        inputs = [is_marked(atom) for atom in eqn.invars]
        here, outputs = _equation(eqn, inputs)
        found += here
        known.update(zip(eqn.outvars, outputs, strict=True))
    return found, [is_marked(atom) for atom in jaxpr.outvars]


def _equation(eqn: Any, inputs: list[bool]) -> tuple[Count, list[bool]]:
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


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, tuple | list) else (value,)
    return [_open(one) for one in values if isinstance(one, ClosedJaxpr | Jaxpr)]


def _all_or_nothing(jaxpr: Any, touched: bool) -> Count:
    """The count of a body whose inputs do not line up with its call's."""
    found = _walk(jaxpr, [False] * len(jaxpr.invars))[0]
    return Count(0.0, found.total, found.uncounted) if touched else found


def _settled(body: Any, fixed: list[bool], carry: list[bool], rest: list[bool]) -> tuple[Count, list[bool]]:
    """A body whose first outputs are its next carry, walked until no more of the carry is marked."""
    while True:
        found, outputs = _walk(body, [*fixed, *carry, *rest])
        grown = [old or new for old, new in zip(carry, outputs, strict=False)]
        if grown == carry:
            return found, carry + outputs[len(carry) :]
        carry = grown


def _scan(eqn: Any, inputs: list[bool]) -> tuple[Count, list[bool]]:
    body, params = _open(eqn.params["jaxpr"]), eqn.params
    if "num_carry" in params:
        consts, carries = params["num_consts"], params["num_carry"]
    else:  # jax 0.12 keeps the three parts of the inputs as trees
        consts, carries = (len(part) for part in params["ft_in"].unpack()[:2])
    carry, rest = inputs[consts : consts + carries], inputs[consts + carries :]
    found, outputs = _settled(body, inputs[:consts], carry, rest)
    return found.times(params["length"]), outputs


def _while(eqn: Any, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """How often it runs is not known before it does: products in it are named, not counted."""
    test, body = _open(eqn.params["cond_jaxpr"]), _open(eqn.params["body_jaxpr"])
    of_test, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    found, outputs = _settled(body, inputs[of_test : of_test + of_body], inputs[of_test + of_body :], [])
    found += _walk(test, [False] * len(test.invars))[0]
    return Count(uncounted=found.uncounted | ({"while"} if found.total else set())), outputs


def _cond(eqn: Any, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """The branch with the most."""
    walked = [_walk(_open(branch), inputs[1:]) for branch in eqn.params["branches"]]
    largest = max((found for found, _ in walked), key=lambda found: found.total)
    names = frozenset().union(*(found.uncounted for found, _ in walked))
    outputs = [inputs[0] or any(marks) for marks in zip(*(outputs for _, outputs in walked), strict=True)]
    return replace(largest, uncounted=names), outputs


def _shard_map(eqn: Any, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """Each device runs the body on its own share."""
    mesh, names = eqn.params["mesh"], eqn.params.get("manual_axes") or eqn.params.get("newly_manual_axes")
    devices = math.prod(mesh.shape[name] for name in (mesh.axis_names if names is None else names))
    found, outputs = _walk(_open(eqn.params["jaxpr"]), inputs)
    return found.times(devices), outputs


def _pallas_call(eqn: Any, inputs: list[bool]) -> tuple[Count, list[bool]]:
    """What the kernel's author says, else its body at every point of the grid: as much as it can be.

    A splash kernel's grid has only the blocks that some head's mask needs, so the bound is close.
    """
    touched = any(inputs)
    outputs = [touched] * len(eqn.outvars)
    said, grid = eqn.params.get("cost_estimate"), eqn.params["grid_mapping"].grid
    if said is not None and said.flops:
        flops = float(said.flops)
        return (Count(moved=flops) if touched else Count(fixed=flops)), outputs
    found = _all_or_nothing(_open(eqn.params["jaxpr"]), touched)
    if not all(isinstance(size, int | np.integer) for size in grid):
        return Count(uncounted=found.uncounted | ({"pallas_call"} if found.total else set())), outputs
    return found.times(math.prod(int(size) for size in grid)), outputs


def _dot_general(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(eqn: Any) -> int:
    """Only where a weight meets a value: not in the padding, nor in the gaps of a dilated input."""
    params, (left, right), out = eqn.params, (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    met = 1
    for i, (x, w, y) in enumerate(zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)):
        steps, dilation = params["window_strides"][i], params["lhs_dilation"][i]
        begins = np.arange(out[y])[:, None] * steps - params["padding"][i][0]
        places = begins + np.arange(right[w])[None, :] * params["rhs_dilation"][i]
        inside = (places >= 0) & (places <= (left[x] - 1) * dilation) & (places % dilation == 0)
        met *= int(inside.sum())
    values = out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    return 2 * values * right[numbers.rhs_spec[1]] * met  # a kernel's input features are those of one group


def _cudnn_attention(products: int) -> Callable[[Any], int]:
    """cuDNN's attention: that many products over all pairs (two forward, five backward)."""

    def flops(eqn: Any) -> int:
        query, key = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
        length = key[2] if int(eqn.params["layout"]) else key[1]  # BNTH is 1, BTNH is 0
        return products * 2 * math.prod(query) * length

    return flops


PRODUCTS: dict[str, Callable[[Any], int]] = {
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
"""Work of matrices whose count is not known here; a report names it."""

LOOPS: dict[str, Callable[[Any, list[bool]], tuple[Count, list[bool]]]] = {
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
"""Primitives that run their one jaxpr once."""
