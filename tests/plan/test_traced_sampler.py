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
from dalle_jax.plan.compile import Planned
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer

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


def planned(task) -> Planned:
    layout = Layout(make_mesh(Mesh(data=2, fsdp=2)), Rules())
    return Planned(task.open_for_plan(), Trainer(steps=1, schedule=ConstantRate(1e-3)), layout)


@pytest.mark.parametrize("name", TASKS)
def test_the_sampler_is_traced_with_the_prompts_of_its_model(name):
    traced = planned(TASKS[name]).traced_sampler(PROMPTS)
    inputs = {(str(leaf.dtype), leaf.shape) for leaf in traced.jaxpr.in_avals}
    assert INPUTS[name] in inputs
    assert [(str(leaf.dtype), leaf.shape) for leaf in traced.jaxpr.out_avals] == [("int32", (PROMPTS, 1, 6))]


def test_a_task_without_a_transformer_is_not_sampled():
    model = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=8, code_width=4)
    with pytest.raises(UserError, match="--sample: expected a task that trains a code generator, got a Vqvae"):
        planned(TokenizeImages(model=model, image_size=8)).traced_sampler(PROMPTS)
