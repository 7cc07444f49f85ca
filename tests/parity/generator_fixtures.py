"""Fixtures of transformers: their folder, what goes in and what came out; skipped where DALLE_JAX_PARITY is unset."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.pretrained.mapping import fill


def fixture_folder(name: str) -> Path:
    """The folder of a fixture."""
    if "DALLE_JAX_PARITY" not in os.environ:
        pytest.skip("DALLE_JAX_PARITY, the folder of parity fixtures, is not set")
    folder = Path(os.environ["DALLE_JAX_PARITY"]) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """``io.npz``."""
    with np.load(folder / "io.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def tolerance(folder: Path) -> float:
    """Ten times the reference's own rounding, at least 2e-5: what the fixtures' README allows."""
    return max(2e-5, 10 * max(json.loads((folder / "meta.json").read_text())["float32_vs_float64"].values()))


def assert_close(ours, theirs, folder: Path) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(folder))


def filled(network, config, tensors, rules, ignored=None):
    """The network of a config with a file's numbers."""
    module = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    fill(module, tensors, rules, ignored or {})
    return module


def compiled(model, function):
    """``function(model, *arguments)``, jitted, its products in full float32."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, *arguments: function(nnx.merge(graph, state), *arguments))

    def call(*arguments):
        with jax.default_matmul_precision("float32"):
            return run(state, *arguments)

    return call


def stepwise(model, prompts, codes, steps: int) -> np.ndarray:
    """Logits [B steps K] of the first codes through the cache, ``codes`` given; the cache grows once on the way."""
    step = compiled(model, lambda model, *arguments: model.decode(*arguments))
    first, cache = compiled(model, lambda model, prompts: model.prefill(prompts, 1))(prompts)
    logits, bounds = [np.asarray(first)], {1: steps // 2, steps // 2 + 1: steps - 1}
    for position in range(1, steps):
        if position in bounds:
            cache = model.grow(cache, bounds[position])
        out, cache = step(jnp.asarray(codes[:, position - 1 : position], jnp.int32), jnp.int32(position), cache)
        logits.append(np.asarray(out[:, 0]))
    return np.stack(logits, axis=1)
