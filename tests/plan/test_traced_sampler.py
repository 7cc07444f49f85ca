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
from dalle_jax.plan.compile import Program
from dalle_jax.plan.planned_sampler import MOST_COMPILATIONS, PlannedSampler, SampledBatch, largest_batch
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages
from dalle_jax.train.flops import Count

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


def test_images_that_the_devices_cannot_share_are_one_line():
    with pytest.raises(
        UserError, match=r"expected a multiple of 4 prompts, or of 4 candidates, .* got 2 prompts with 3"
    ):
        planned(TASKS["dalle"]).trace(SampledBatch(2, 3))


def planned_attention(
    kind: str,
    mesh: Mesh = Mesh(data=2, fsdp=2),  # noqa: B008 (frozen)
    kv_heads: int | None = None,
) -> PlannedSampler:
    model = DalleConfig(
        **(TEXT | {"grid": (4, 4)}), depth=2, heads=2, head_size=8, kv_heads=kv_heads, attention=(kind,), scan=True
    )
    return planned(GenerateCodes(model, ABSENT), mesh)


@pytest.mark.parametrize(("kind", "stored", "read"), [("full", 15, 15), ("row", 4, 4), ("column", 16, 4)])
def test_the_cache_is_counted_where_it_is_stored_and_where_it_is_read(kind, stored, read):
    """In bytes: 2 layers, keys and values, width 16, float32, twice for guidance; 4 devices share the images."""
    sampler, slot = planned_attention(kind), 2 * 2 * 16 * 4 * 2
    assert sampler.cache_bytes == (7 * slot, stored * slot)
    assert sampler.step_bytes(SampledBatch(4, 2)).cache == (7 * 4 + read * 8) * slot / 4


def test_half_the_key_heads_halve_the_cache():
    whole, half = (planned_attention("full", kv_heads=heads) for heads in (2, 1))
    assert [2 * size for size in half.cache_bytes] == list(whole.cache_bytes)
    assert 2 * half.step_bytes(SampledBatch(4, 2)).cache == whole.step_bytes(SampledBatch(4, 2)).cache


def test_a_step_reads_weights_whole_if_the_devices_that_hold_them_share_the_images():
    matrices = 4 * (2 * 12 * 16 * 16 + 16 * 8)  # of the layers, and the head
    few = 4 * (2 * (4 * 16 + 5 * 16) + 8)  # norms and biases
    whole, halved = (planned_attention("full", mesh) for mesh in (Mesh(data=2, fsdp=2), Mesh(data=2, tensor=2)))
    assert whole.step_bytes(SampledBatch(4, 1)).weights == matrices + few
    assert matrices / 2 < halved.step_bytes(SampledBatch(4, 1)).weights < matrices / 2 + few
    assert planned_attention("full", Mesh(data=1)).weight_bytes > whole.weight_bytes


def program(peak: int, fits: bool = True) -> Program:
    return Program(peak, 0, 0, Count(), 0.0, "compiled" if fits else None)


@pytest.mark.parametrize(("tried", "room", "largest"), [(8, 1000, 88), (8, 190, 4), (8, 140, None), (88, 1000, 88)])
def test_the_largest_call_is_found_by_compiling_multiples_of_the_devices(monkeypatch, tried, room, largest):
    """A prompt takes 10 bytes, beside weights of 100 and others of 15."""
    sampler, compiled = planned(TASKS["dalle"]), []

    def compile_call(self, batch):
        compiled.append(batch.prompts)
        return program(115 + 10 * batch.prompts)

    monkeypatch.setattr(PlannedSampler, "compile", compile_call)
    monkeypatch.setattr(PlannedSampler, "weight_bytes", 100)
    found = largest_batch(sampler, SampledBatch(tried, 1), program(115 + 10 * tried), room, print)
    assert found == largest
    assert len(compiled) <= MOST_COMPILATIONS and all(prompts % 4 == 0 for prompts in compiled)


def test_a_task_without_a_transformer_is_not_sampled():
    model = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=8, code_width=4)
    with pytest.raises(UserError, match="--sample: expected a task that trains a code generator, got a Vqvae"):
        planned(TokenizeImages(model=model, image_size=8))
