"""Small DALL·E, DALL·E mini and LlamaGen transformers for tests, with every kind of attention."""

import functools

import jax
from flax import nnx

from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.dalle_bart import DalleBart, DalleBartConfig
from dalle_jax.models.llamagen import LlamaGen, LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass

KINDS = ["full", "row", "column", "convolutional"]
MIX = ("row", "column", "convolutional", "full")

SIZES = {"text_vocab": 11, "text_length": 4, "codebook_size": 7, "grid": (3, 4), "width": 12}
DALLE = SIZES | {"depth": 2, "heads": 2, "head_size": 4, "kernel": 3}
ENCODER = {"encoder_layers": 1, "encoder_heads": 2, "encoder_hidden": 10}
DECODER = {"decoder_layers": 2, "decoder_heads": 3, "decoder_hidden": 14, "init_std": 0.4}
LLAMAGEN = {"codebook_size": 7, "grid": (3, 4), "width": 16, "depth": 2, "heads": 2, "multiple_of": 8, "init_std": 0.4}


def dalle(attention=("full",), **changes) -> Dalle:
    return _build(Dalle, DalleConfig(**(DALLE | {"attention": tuple(attention)} | changes)))


def dalle_bart(**changes) -> DalleBart:
    return _build(DalleBart, DalleBartConfig(**(SIZES | ENCODER | DECODER | changes)))


def llamagen(captions=False, **changes) -> LlamaGen:
    """Build a LlamaGen with a random head in place of its initial zeros."""
    condition = ByCaption(length=4, width=6) if captions else ByClass(5)
    model = _build(LlamaGen, LlamaGenConfig(**(LLAMAGEN | {"condition": condition} | changes)))
    model.codes.head.kernel[...] = jax.random.normal(jax.random.key(5), model.codes.head.kernel.shape)
    return model


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
