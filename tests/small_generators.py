"""Small DALL·E and DALL·E mini transformers for tests, with every kind of attention."""

import functools

import jax
from flax import nnx

from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig

KINDS = ["full", "row", "column", "convolutional"]
MIX = ("row", "column", "convolutional", "full")

SIZES = {"text_vocab": 11, "text_length": 4, "codebook_size": 7, "grid": (3, 4), "width": 12}
DALLE = SIZES | {"depth": 2, "heads": 2, "head_size": 4, "kernel": 3}
ENCODER = {"encoder_layers": 1, "encoder_heads": 2, "encoder_hidden": 10}
DECODER = {"decoder_layers": 2, "decoder_heads": 3, "decoder_hidden": 14, "init_std": 0.4}


def dalle(attention=("full",), **changes) -> Dalle:
    return _build(Dalle, DalleConfig(**(DALLE | {"attention": tuple(attention)} | changes)))


def dalle_bart(**changes) -> DalleBart:
    return _build(DalleBart, DalleBartConfig(**(SIZES | ENCODER | DECODER | changes)))


@functools.cache
def _parts(kind, config):
    """Initialise a network in one compiled call; tables scaled by 20 make the logits vary clearly with the codes."""
    graph = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))[0]

    @jax.jit
    def draw():
        model = kind(config, rngs=nnx.Rngs(0))
        for _, module in nnx.iter_modules(model):
            if hasattr(module, "table"):
                module.table[...] = module.table[...] * 20
        return nnx.split(model)[1]

    return graph, draw()


def _build(kind, config):
    graph, state = _parts(kind, config)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))


def forward(model):
    """Return the jitted network with its present parameters."""
    graph, state = nnx.split(model)
    return jax.jit(lambda text, codes: nnx.merge(graph, state)(text, codes))
