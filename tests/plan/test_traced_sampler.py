"""The sampler that ``plan --sample`` traces for each transformer. Only compiling needs libtpu (test_plan.py)."""

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.models.vqvae import VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.plan.planned_sampler import PlannedSampler, SampledBatch
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages

PROMPTS = 4
ABSENT = Captions(file="not/there.model")
TEXT = {"text_vocab": 16, "text_length": 6, "codebook_size": 8, "grid": (2, 3), "width": 16}
CODES = {"codebook_size": 8, "grid": (2, 3), "width": 16, "depth": 1, "heads": 2, "multiple_of": 8}
BART = {"encoder_layers": 1, "encoder_heads": 2, "encoder_hidden": 8, "decoder_layers": 1, "decoder_heads": 2}
TASKS = {
    "dalle": GenerateCodes(DalleConfig(**TEXT, depth=1, heads=2, head_size=8), ABSENT),
    "dalle_bart": GenerateCodes(DalleBartConfig(**TEXT, **BART, decoder_hidden=8), ABSENT),
    "llamagen by class": GenerateFromConditions(LlamaGenConfig(ByClass(5), **CODES)),
    "llamagen by caption": GenerateFromConditions(LlamaGenConfig(ByCaption(length=3, width=12), **CODES)),
}
INPUTS = {
    "dalle": ("int32", (PROMPTS, 6)),
    "dalle_bart": ("int32", (PROMPTS, 6)),
    "llamagen by class": ("int32", (PROMPTS,)),
    "llamagen by caption": ("float32", (PROMPTS, 3, 12)),
}


def planned(task, mesh: Mesh = Mesh(data=2, fsdp=2)) -> PlannedSampler:  # noqa: B008 (frozen)
    return PlannedSampler(task.open_for_plan(), Layout(make_mesh(mesh), Rules()))


@pytest.mark.parametrize("name", TASKS)
def test_the_sampler_is_traced_with_the_prompts_of_its_model(name):
    traced = planned(TASKS[name]).trace(SampledBatch(PROMPTS, 1))
    inputs = {(str(leaf.dtype), leaf.shape) for leaf in traced.jaxpr.in_avals}
    assert INPUTS[name] in inputs
    assert [(str(leaf.dtype), leaf.shape) for leaf in traced.jaxpr.out_avals] == [("int32", (PROMPTS, 1, 6))]


def test_a_task_without_a_transformer_is_not_sampled():
    model = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=8, code_width=4)
    with pytest.raises(UserError, match="--sample: expected a task that trains a code generator, got a Vqvae"):
        planned(TokenizeImages(model=model, image_size=8))
