"""Codes of small transformers on a mesh; as a script, those of one process of a run: ``sharded_sampling.py OUT``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.model_configs import CodeGeneratorConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.parallel import hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from dalle_jax.sampling.slots import SlotSamples, sample_in_slots

R = TypeVar("R")
MESHES = {"8x1x1": Mesh(8, 1, 1), "1x8x1": Mesh(1, 8, 1), "2x2x2": Mesh(2, 2, 2)}
ONE = Mesh(1, 1, 1)
SIZES = {"codebook_size": 16, "grid": (4, 4), "width": 16}
TEXT = SIZES | {"text_vocab": 32, "text_length": 6}
DALLE = TEXT | {"depth": 4, "heads": 2, "head_size": 8, "kernel": 3}
BART = {"encoder_layers": 1, "encoder_heads": 2, "encoder_hidden": 32, "decoder_layers": 2, "decoder_heads": 2}
LLAMA = SIZES | {"depth": 2, "heads": 2, "multiple_of": 8, "scan": True}
GENERATORS: dict[str, CodeGeneratorConfig] = {
    "mixed": DalleConfig(**DALLE, attention=("row", "column", "convolutional", "full")),
    "full": DalleConfig(**DALLE, scan=True),
    "row": DalleConfig(**DALLE, attention=("row",), scan=True),
    "column": DalleConfig(**DALLE, attention=("column",), scan=True),
    "convolutional": DalleConfig(**DALLE, attention=("convolutional",), scan=True),
    "mini": DalleBartConfig(**TEXT, **BART, decoder_hidden=32, init_std=0.4),
    "class": LlamaGenConfig(condition=ByClass(8), **LLAMA),
    "caption": LlamaGenConfig(condition=ByCaption(length=3, width=8), **LLAMA),
}


def built(config: CodeGeneratorConfig) -> nnx.Module:
    """Return a network whose codes depend clearly on the prompt: its tables are 20 times as large as at first."""
    model = config.build(nnx.Rngs(0))
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "table"):
            module.table[...] = module.table[...] * 20
    return model


def prompts_of(model: nnx.Module, count: int) -> np.ndarray:
    spec, random = model.prompt_spec(count), np.random.default_rng(0)
    if spec.dtype == jnp.float32:
        return random.normal(size=spec.shape).astype(np.float32)
    return random.integers(1, 8, spec.shape).astype(np.int32)


def codes_on(layout: Layout, model: nnx.Module, prompts: int, candidates: int) -> jax.Array:
    """Sample codes [P M I] with guidance, each row at other settings."""
    return _run(layout, model, prompts, candidates, lambda *given: sample(*given, guided=True))


def slot_codes_on(layout: Layout, model: nnx.Module, prompts: int, candidates: int) -> SlotSamples:
    """Sample the same codes in slots, in windows of four codes."""
    return _run(layout, model, prompts, candidates, lambda *given: sample_in_slots(*given, guided=True, window=4))


def _run(layout: Layout, model: nnx.Module, prompts: int, candidates: int, function: Callable[..., R]) -> R:
    run = CompiledNetwork(model, layout).jit(function)
    settings = Settings.of(prompts, guidance=2.0, top_p=0.9)._replace(temperature=jnp.linspace(0.5, 1.5, prompts))
    return run(prompts_of(model, prompts), image_keys(jnp.arange(prompts), candidates), settings)


def layout_of(mesh: Mesh) -> Layout:
    return Layout(make_mesh(mesh), Rules())


if __name__ == "__main__":
    hosts.join()
    place = layout_of(MESHES["2x2x2"])
    found = {
        f"{name} {prompts}": np.asarray(codes_on(place, built(GENERATORS[name]), prompts, 16 // prompts))
        for name in sys.argv[2:]
        for prompts in (1, 8)
    }
    if hosts.is_first():
        np.savez(sys.argv[1], **found)
