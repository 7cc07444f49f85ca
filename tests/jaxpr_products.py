"""Matrix products and convolutions of a jaxpr, also those in its loops, branches and custom gradients."""

from collections.abc import Callable, Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from dalle_jax.arrays import PyTree
from dalle_jax.parallel.layout import portable_trace

PRODUCTS = ("dot_general", "conv_general_dilated")


def products(jaxpr: Jaxpr, *, branches: bool = True) -> Iterator[JaxprEqn]:
    """Yield the products of a jaxpr and of all jaxprs in it; without ``branches``, only those that always run."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond" and not branches:
            continue
        if eqn.primitive.name in PRODUCTS:
            yield eqn
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda one: isinstance(one, Jaxpr)):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from products(value.jaxpr if isinstance(value, ClosedJaxpr) else value, branches=branches)


def portable_products(function: Callable[..., PyTree], *args: PyTree) -> list[JaxprEqn]:
    """Trace a function as on an accelerator without kernels, and return its products."""
    with portable_trace():
        return list(products(jax.make_jaxpr(function)(*args).jaxpr))


def is_float32(eqn: JaxprEqn) -> bool:
    """Return whether both operands of a product are float32."""
    return all(one.aval.dtype == "float32" for one in eqn.invars)


def is_exact(eqn: JaxprEqn) -> bool:
    """Return whether a product names the precision HIGHEST for both operands."""
    precision = eqn.params["precision"]
    return precision is not None and set(precision) == {jax.lax.Precision.HIGHEST}
