"""Steps through a transformer's cache, and fixtures by their folders."""

from pathlib import Path

import fixtures
import jax
import jax.numpy as jnp
import numpy as np
from fixtures import fixture
from flax import nnx


def fixture_folder(name: str) -> Path:
    """Return the folder of a fixture."""
    return fixture(name).folder


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return the inputs and outputs of a fixture."""
    return fixture(folder.name).io


def assert_close(ours, theirs, folder: Path) -> None:
    fixtures.assert_close(ours, np.asarray(theirs), fixture(folder.name).tolerance)


def compiled(model, function):
    """Return ``function(model, *arguments)``, jitted, with matrix products in full float32."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, *arguments: function(nnx.merge(graph, state), *arguments))

    def call(*arguments):
        with jax.default_matmul_precision("float32"):
            return run(state, *arguments)

    return call


def stepwise(model, prompts, codes, steps: int) -> np.ndarray:
    """Return logits [B steps K] of the first codes through the cache, given ``codes``; the cache grows once."""
    step = compiled(model, lambda model, *arguments: model.decode(*arguments))
    first, cache = compiled(model, lambda model, prompts: model.prefill(prompts, 1))(prompts)
    logits, bounds = [np.asarray(first)], {1: steps // 2, steps // 2 + 1: steps - 1}
    for position in range(1, steps):
        if position in bounds:
            cache = model.grow(cache, bounds[position])
        out, cache = step(jnp.asarray(codes[:, position - 1 : position], jnp.int32), jnp.int32(position), cache)
        logits.append(np.asarray(out[:, 0]))
    return np.stack(logits, axis=1)
