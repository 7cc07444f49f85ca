"""Small models in published layouts with the reference's outputs: the folder that DALLE_JAX_PARITY names.

``meta.json`` holds the observed rounding of the reference; ten times that, at least 2e-5, is the tolerance.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.glide import Glide
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.mapping import fill
from dalle_jax.pretrained.publisher import find_kind
from dalle_jax.pretrained.publishers import glide


class Fixture(NamedTuple):
    folder: Path
    io: dict[str, np.ndarray]
    tolerance: float


def normalise(pixels: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """Return ``(pixels / 255 - mean) / std``, each step rounded to float32 as in the references."""
    values = pixels.astype(np.float32) / np.float32(255)
    return (values - np.array(mean, np.float32)) / np.array(std, np.float32)


def fixture(name: str) -> Fixture:
    """Return the fixture's folder, inputs and outputs; skip the test if the folder is missing."""
    root = os.environ.get("DALLE_JAX_PARITY")
    if not root:
        pytest.skip("DALLE_JAX_PARITY is not set")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"{root} has no {name}")
    meta = json.loads((folder / "meta.json").read_text())
    rounding = max(meta["float32_vs_float64"].values(), default=0.0)
    return Fixture(folder, dict(read_tensors(folder / "io.npz")), max(10 * rounding, 2e-5))


def imported(name: str, source: Path) -> Any:
    """Return the network of a published source, filled."""
    found = find_kind(name).read(source)
    module = nnx.eval_shape(lambda: found.config.build(nnx.Rngs(0)))
    fill(module, found.tensors, found.rules, found.ignored)
    return module


def glide_network(name: str) -> tuple[Glide, Fixture]:
    """Return GLIDE's network of a fixture, whose ``meta.json`` has the heads, and the fixture."""
    one = fixture(f"glide_{name}")
    (file,) = one.folder.glob("*.pt")
    sizes = json.loads((one.folder / "meta.json").read_text())["config"]
    config = glide.config_from_tensors(read_tensors(file), sizes["hc"], sizes["xf"]["xf_heads"])
    network = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    fill(network, read_tensors(file), glide.rules_for(config), {})
    return network, one


def run(function: Any, module: nnx.Module, *arrays: np.ndarray) -> np.ndarray:
    """Call ``function(module, *arrays)``, compiled, with matrix products at full precision."""
    graph, state = nnx.split(module)
    with jax.default_matmul_precision("float32"):
        out = jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays))(state, *arrays)
    return np.asarray(out)


def assert_close(got: Any, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=0, atol=tolerance)
