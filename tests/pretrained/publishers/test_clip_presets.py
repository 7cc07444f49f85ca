"""OpenAI's presets: the published numbers of parameters, and a rule for every tensor."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.pretrained.files.tensors import StoredTensor, Tensors
from dalle_jax.pretrained.mapping import mismatches
from dalle_jax.pretrained.publishers.clip_presets import PRESETS, preset_name
from dalle_jax.pretrained.publishers.clip_rules import hugging_face_rules, openai_rules
from dalle_jax.pretrained.publishers.openai_clip import config_from_shapes
from dalle_jax.train.state import ModuleSpec

PARAMETERS = {  # from open_clip's model table and OpenAI's notebook
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14@336px": 427_944_193,
}


def published(spec: ModuleSpec, rules) -> Tensors:
    """Build a file with the shapes that the rules expect, and without values."""
    stored = {}
    for one in rules:
        whole = np.broadcast_to(np.zeros((), np.int8), spec.stored()[one.target].shape)
        for name, part in zip(one.sources, one.transform.backward(whole), strict=True):
            stored[name] = StoredTensor(part.shape, np.dtype(np.float16), lambda: np.zeros(0))
    return Tensors("a file", stored)


LONG = ("RN101", "RN50x4", "RN50x16", "RN50x64")
"""ResNets with many blocks, which take long to trace."""


def module_spec_of(config: ClipConfig) -> ModuleSpec:
    return ModuleSpec.of(nnx.eval_shape(lambda: Clip(config, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in LONG)) for one in PARAMETERS])
def test_a_preset_has_the_published_number_of_parameters(name):
    spec = module_spec_of(
        dataclasses.replace(PRESETS[name], scan=True)
    )  # scan traces one block of a tower instead of all
    sizes = {path: leaf.size for path, leaf in spec.stored().items()}
    assert sum(size for path, size in sizes.items() if spec.is_param(path)) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
def test_every_tensor_of_a_published_file_has_a_rule_and_its_shapes_identify_the_preset(name):
    config = PRESETS[name]
    spec = module_spec_of(config)
    tensors = published(spec, openai_rules(config))
    assert config_from_shapes(tensors, "quick_gelu") == config and preset_name(config) == name
    assert not mismatches(spec.stored(), tensors, openai_rules(config), {})
    if isinstance(config.vision, TowerConfig):
        rules = hugging_face_rules(config)
        assert not mismatches(spec.stored(), published(spec, rules), rules, {})


def test_published_models_have_a_preset_and_other_configs_have_no_name():
    assert PRESETS.keys() == PARAMETERS.keys()
    assert preset_name(dataclasses.replace(PRESETS["RN50"], embed_width=3)) is None
