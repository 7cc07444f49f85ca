"""Rematerialisation changes the stored activations, and nothing else."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import DALLE, DECODER, ENCODER, SIZES

from dalle_jax.layers.remat import Remat
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CODES = jax.random.randint(jax.random.key(1), (2, 12), 0, 7)
PIXELS = jax.random.uniform(jax.random.key(2), (2, 16, 16, 3))
NAMES = typing.get_args(Remat)


def one_stream(**changes):
    sizes = DALLE | {"attention": ("row",), "depth": 3, "last_attention": "full", "dropout": 0.1}
    return Dalle, DalleConfig(**(sizes | changes))


def bart(**changes):
    return DalleBart, DalleBartConfig(**(SIZES | ENCODER | DECODER | changes))


def clip(**changes):
    tower = TowerConfig(width=16, layers=2, heads=2)
    sizes = {"image_size": 16, "patch": 4, "vocab_size": 11, "text_length": 4, "embed_width": 8}
    return Clip, ClipConfig(vision=tower, text=tower, **sizes, **changes)


def loss_of(kind, config):
    """Return a scalar loss of all parameters, and the parameters, drawn with numpy to save a compilation."""
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    draw = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: draw.normal(0, 0.2, leaf.shape).astype(leaf.dtype), state)

    def loss(state):
        model = nnx.merge(graph, state)
        if isinstance(model, Clip):
            return (model.encode_text(TEXT) * model.encode_image(PIXELS)).sum() * model.logit_scale
        logits = model(TEXT, CODES, dropout_key=jax.random.key(3))
        return sum((one**2).mean() for one in jax.tree.leaves(logits))

    return loss, state


def kept(kind, config):
    """Return the bytes that the forward pass stores for the backward pass, including parameters."""
    loss, state = loss_of(kind, config)
    residuals = jax.eval_shape(lambda state: jax.tree.leaves(jax.vjp(loss, state)[1]), state)
    return sum(one.size * one.dtype.itemsize for one in residuals)


@functools.cache
def plain(make, scan):
    loss, state = loss_of(*make(scan=scan))
    return jax.jit(jax.value_and_grad(loss))(state)


@pytest.mark.parametrize(
    ("make", "remat", "scan"),
    [
        *((one_stream, name, True) for name in NAMES[1:]),
        (one_stream, "full", False),
        (bart, "full", True),
        (clip, "full", True),
    ],
)
def test_loss_and_gradients_are_the_same(make, remat, scan):
    loss, state = loss_of(*make(scan=scan, remat=remat))
    ours = jax.jit(jax.value_and_grad(loss))(state)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain(make, scan)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("make", [one_stream, bart, clip])
def test_each_policy_stores_less_than_the_one_before_it(make, scan):
    everything, *less = (kept(*make(scan=scan, remat=name)) for name in NAMES)
    assert everything > less[0] > less[1] > less[2]
