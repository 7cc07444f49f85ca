import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.bind import loads
from dalle_jax.config.render import render
from dalle_jax.models import model_configs
from dalle_jax.models.clip import ClipConfig, ClipImageConfig, ClipTextConfig, TowerConfig
from dalle_jax.models.code_denoiser import CodeDenoiserConfig
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.decoders.consistency_decoder import ConsistencyDecoderConfig
from dalle_jax.models.dvae import DvaeConfig
from dalle_jax.models.glide import GlideConfig
from dalle_jax.models.heads.forecast_heads import ForecastHeadsConfig
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.lpips import LpipsConfig
from dalle_jax.models.patch_denoisers.patch_transformer import PatchTransformerConfig
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.priors.unclip_text_projection import UnclipTextProjectionConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.models.unet import UNetConfig
from dalle_jax.models.vision.dinov2 import Dinov2Config
from dalle_jax.models.vision.efficientnet_lite import EfficientNetLiteConfig
from dalle_jax.models.vision.inception_v3 import InceptionV3Config
from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.models.vqvae import VqvaeConfig
from dalle_jax.pipelines.load.models import ModelFile
from tests import small_denoisers, small_generators

TOWER = TowerConfig(width=8, layers=1, heads=2)
LLAMAGEN = {"codebook_size": 7, "grid": (3, 4), "width": 16, "depth": 1, "heads": 2, "multiple_of": 8}
PRIOR = {"embed_width": 8, "text_width": 6, "text_length": 3, "width": 16, "depth": 1, "heads": 2}
DALLE = DalleConfig(**small_generators.DALLE)
BART = DalleBartConfig(**small_generators.SIZES, **small_generators.ENCODER, **small_generators.DECODER)
UNET = UNetConfig(32, (1, 2), 1, attention_levels=(1,), head_size=32, context_width=4)
CONFIGS = [
    VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=8, code_width=4),
    DvaeConfig(width=8, codebook_size=8, code_width=4, groups=2, blocks=1),
    VqganConfig(
        width=32, multipliers=(1, 1), blocks=1, attention_levels=(1,), latent_width=8, code_width=4, codebook_size=8
    ),
    DALLE,
    BART,
    LlamaGenConfig(ByClass(5), **LLAMAGEN),
    ClipConfig(image_size=8, patch=4, vision=TOWER, vocab_size=9, text_length=3, text=TOWER, embed_width=8),
    CodeDenoiserConfig(
        text_vocab=9,
        text_length=3,
        embed_width=8,
        codebook_size=8,
        code_width=4,
        grid=(2, 2),
        width=8,
        layers=1,
        heads=2,
    ),
    UNET,
    GlideConfig(dataclasses.replace(UNET, context_width=8), vocab_size=9, text_length=3, text=TOWER),
    PatchTransformerConfig(width=8, layers=1, heads=2, patch=2, context_width=4),
    MlpPriorConfig(embed_width=8, width=8, hidden=8, layers=1),
    LpipsConfig(widths=(4, 4), depths=(1, 1)),
    InceptionV3Config(unit=1, classes=3),
    Dinov2Config(width=4, layers=1, heads=2, grid=2, patch=2, registers=1, image_size=4),
    EfficientNetLiteConfig(16, 4, (4,), (1,), (3,), (1,), (1,), features=4, classes=3),
    ClipTextConfig(vocab_size=9, text_length=3, text=TOWER, embed_width=8),
    ClipImageConfig(image_size=8, patch=4, vision=TOWER, embed_width=8),
    DiffusionPriorConfig(**PRIOR),
    OneStepPriorConfig(**PRIOR),
    AutoregressivePriorConfig(**PRIOR, components=4, buckets=6, dot_products=4),
    UnclipTextProjectionConfig(embed_width=8, text_width=6, width=10, time_width=12),
    small_denoisers.decoder_config(),
    small_denoisers.UPSAMPLER,
    ConsistencyDecoderConfig(
        UNetConfig(32, (1,), 1, extra_channels=2, learned_times=1024), 4, 0.5, mean=(0.1, 0.2), std=(1.0, 2.0)
    ),
    ForecastHeadsConfig(codebook_size=8, width=4),
]


def built(config):
    return nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))


def test_every_model_of_the_union_is_built_and_tested_here():
    assert {type(config) for config in CONFIGS} == set(typing.get_args(model_configs.AnyModelConfig))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_builds_the_network_of_its_name_and_comes_back_from_a_model_file(config):
    assert type(built(config)).__name__ == type(config).__name__.removesuffix("Config")
    assert loads(render(ModelFile(model=config)), ModelFile).model == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_unions_and_the_protocols_agree(config):
    graph, state = nnx.split(built(config))
    values = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state)
    module = nnx.merge(graph, values)  # with values, since a protocol's check reads the properties
    assert isinstance(module, ImageTokenizer) == isinstance(config, model_configs.ImageTokenizerConfig)
    assert isinstance(module, CodeGenerator) == isinstance(config, model_configs.CodeGeneratorConfig)


@pytest.mark.parametrize(
    ("config", "shape", "dtype"),
    [
        (DALLE, (6, 4), jnp.int32),
        (BART, (6, 4), jnp.int32),
        (LlamaGenConfig(ByClass(5), **LLAMAGEN), (6,), jnp.int32),
        (LlamaGenConfig(ByCaption(length=3, width=10), **LLAMAGEN), (6, 3, 10), jnp.float32),
    ],
)
def test_a_transformer_takes_prompts_of_its_prompt_spec(config, shape, dtype):
    module = built(config)
    spec = module.prompt_spec(6)
    assert (spec.shape, spec.dtype) == (shape, dtype)
    graph, state = nnx.split(module)
    logits, _ = jax.eval_shape(lambda state, prompts: nnx.merge(graph, state).prefill(prompts, 2), state, spec)
    assert logits.shape == (6, config.codebook_size)


def test_folded_code_vectors_leave_the_logits_as_they_are():
    model, initial = (small_generators.dalle_bart(code_width=3) for _ in range(2))
    model.set_code_vectors(jax.random.normal(jax.random.key(1), (7, 3)))
    text, codes = jnp.array([[3, 1, 0, 0]]), jnp.arange(12)[None] % 7
    forward = nnx.jit(lambda model: model(text, codes).image)
    before, without = forward(model), forward(initial)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    model.fold_code_vectors()
    np.testing.assert_allclose(forward(model), before, atol=2e-5)
    assert not np.allclose(before, without, atol=1e-3)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) < parameters


def test_code_vectors_are_refused_by_a_model_without_code_width():
    with pytest.raises(ValueError, match="expected code_width > 0, got code_width 0"):
        small_generators.dalle().set_code_vectors(jnp.ones((7, 3)))
