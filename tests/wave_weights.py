"""Weights in a published layout that a formula gives, so that a reference and this package can make the same."""

import jax
import numpy as np
from flax import nnx

from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors
from dalle_jax.pretrained.mapping import fill
from dalle_jax.train.state import ModuleSpec


def wave(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a sine of the position's square, shifted by the name's letters, at the scale of trained weights."""
    place = np.arange(np.prod(shape, dtype=int))
    sine = np.sin((place * place * 37 + place * 11 + sum(map(ord, name))) % 628 / 100).reshape(shape)
    if name.endswith("running_var"):
        return (sine**2 + 0.5).astype(np.float32)
    if name.endswith(("running_mean", "bias")):
        return (0.2 * sine).astype(np.float32)
    if len(shape) == 1:
        return (1 + 0.3 * sine).astype(np.float32)
    return (sine * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)


def wave_tensors(module: nnx.Module, rules) -> Tensors:
    """Return the published tensors of an abstract module, by its rules."""
    stored = ModuleSpec.of(module).stored()
    found = {}
    for one in rules:
        parts = one.transform.backward(np.zeros(stored[one.target].shape, np.float32))
        for name, part in zip(one.sources, parts, strict=True):
            value = wave(name, part.shape)
            found[name] = StoredTensor(value.shape, value.dtype, lambda value=value: value)
    return Tensors("waves", found)


def wave_network(config, rules_of):
    """Return the network of a config, filled with waves through the rules of its publisher."""
    module = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    rules = rules_of(config)
    fill(module, wave_tensors(module, rules), rules, {})
    return module


def counted_pixels(batch: int, side: int) -> np.ndarray:
    """Return images with values that a formula gives."""
    return (np.arange(batch * side * side * 3) * 37 % 251).reshape(batch, side, side, 3).astype(np.uint8)


def noise_and_dark_noise(side: int) -> np.ndarray:
    """Return two images of noise, the second one dark."""
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    images[1] //= 4
    return images


def run_once(network: nnx.Module, function, *args):
    """Call a function of a network in one compiled program."""
    graph, state = nnx.split(network)
    return jax.jit(lambda state, *args: function(nnx.merge(graph, state), *args))(state, *args)
