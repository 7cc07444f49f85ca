"""Every task on eight devices: a train step equals the step on one device, and arrays have the right shardings.

The step is the trainer's own. With beta1 = 0, Adam's first moment equals the gradient to the last bit.
"""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip, ClipConfig, TowerConfig
from dalle_jax.models.code_denoiser import CodeDenoiserConfig
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.dvae import DvaeConfig
from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.patch_discriminator import DiscriminatorConfig
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.prompt_kinds import ByCaption
from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.align_text_images import AlignTextImages, TextImageAlignment
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_codes import CodeDenoising, DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages, ImageDecoding
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.tasks.generate_from_conditions import ConditionalCodeGeneration, GenerateFromConditions
from dalle_jax.tasks.predict_embeddings import EmbeddingPrediction, PredictEmbeddings
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages, VqvaeReconstruction
from dalle_jax.tasks.tokenizers.tokenize_images_dvae import DvaeReconstruction, TokenizeImagesDvae
from dalle_jax.tasks.tokenizers.tokenize_images_gan import Adversary, Pyramid, TokenizeImagesGan, VqganReconstruction
from dalle_jax.tasks.upsample_images import ImageUpsampling, UpsampleImages
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.ema import ConstantEma
from dalle_jax.train.optim.optimizers import AdamW
from dalle_jax.train.optim.parameter_masks import is_matrix
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.state import State
from dalle_jax.train.task import Task
from dalle_jax.train.trainer import Trainer
from tests.parallel.xla_messages import REPLICATES, printed_by_xla
from tests.small_denoisers import UPSAMPLER, decoder_config

ONE = Mesh(1, 1, 1)
MESHES = {"8x1x1": Mesh(8, 1, 1), "1x8x1": Mesh(1, 8, 1), "2x2x2": Mesh(2, 2, 2)}
VQVAE = VqvaeConfig(downsample=4, width=16, blocks=1, codebook_size=16, code_width=8, stem="patch")
DVAE = DvaeConfig(width=32, codebook_size=16, code_width=8, groups=2, blocks=1)
VQGAN = VqganConfig(
    width=64, multipliers=(1,), blocks=1, attention_levels=(), latent_width=8, code_width=8, codebook_size=16,
    distance="cosine",
)  # fmt: skip
ADVERSARY = Adversary(network=DiscriminatorConfig(width=8, layers=1), start=0)
TOWER = TowerConfig(width=16, layers=1, heads=2)
ROWS, SIDE, TEXT, VOCABULARY = 16, 16, 6, 32
CODES = {"text_vocab": VOCABULARY, "text_length": TEXT, "codebook_size": 16, "grid": (4, 4), "width": 16}
PRIOR = {"embed_width": 8, "text_width": 16, "text_length": TEXT, "width": 16, "depth": 2, "heads": 2, "scan": True}
MODELS = {
    "dalle": DalleConfig(
        **CODES, depth=3, heads=2, head_size=8, attention=("row",), last_attention="column", code_width=8, scan=True
    ),
    "dalle_bart": DalleBartConfig(
        **CODES, encoder_layers=1, encoder_heads=2, encoder_hidden=32, decoder_layers=1, decoder_heads=2,
        decoder_hidden=32,
    ),
    "llamagen": LlamaGenConfig(
        condition=ByCaption(length=3, width=8), codebook_size=16, grid=(4, 4), width=16, depth=2, heads=2,
        multiple_of=8, scan=True,
    ),
    "clip": ClipConfig(
        image_size=SIDE, patch=8, vision=TOWER, vocab_size=VOCABULARY, text_length=TEXT, text=TOWER, embed_width=8
    ),
    "code_denoiser": CodeDenoiserConfig(**CODES, embed_width=8, code_width=8, layers=2, heads=2, scan=True),
    "one_step_prior": OneStepPriorConfig(**PRIOR),
    "autoregressive_prior": AutoregressivePriorConfig(**PRIOR, components=4, buckets=16, dot_products=4),
    "pixel_decoder": decoder_config(VOCABULARY, embed_width=8, image_size=SIDE, learned_variance=True),
    "upsampler": UPSAMPLER,
}  # fmt: skip
KINDS = ("tokenizer", "dvae", "vqgan", "dalle", "dalle_bart", "llamagen", "clip", "code_denoiser", "one_step_prior",
         "autoregressive_prior", "pixel_decoder", "upsampler")  # fmt: skip
ON_EVERY_MESH = ("tokenizer",)
"""These kinds are always tested on every mesh, the others on 2x2x2, and on the other meshes by ``make test-slow``."""
ONLY_SLOW = ("dvae", "vqgan", "pixel_decoder", "upsampler")
"""These kinds compile for long, and are tested by ``make test-slow`` alone."""

TOKENIZER = Vqvae(VQVAE, rngs=nnx.Rngs(5))
UNREAD = Captions(file="unread")


def task_of(kind: str) -> Task:
    """Return a task of the kind, with an image tokenizer that is made here and without a text tokenizer."""
    if kind == "tokenizer":
        return VqvaeReconstruction(TokenizeImages(model=VQVAE, image_size=SIDE, l1=0.2))
    if kind == "dvae":
        return DvaeReconstruction(TokenizeImagesDvae(model=DVAE, image_size=SIDE))
    if kind == "vqgan":
        config = TokenizeImagesGan(
            model=VQGAN, image_size=SIDE, perceptual=Pyramid(), adversary=ADVERSARY, entropy=0.1,
            entropy_temperature=1.0,
        )  # fmt: skip
        return VqganReconstruction(config, lpips=None)
    if kind == "llamagen":
        return ConditionalCodeGeneration(GenerateFromConditions(model=MODELS[kind]))
    if kind == "clip":
        return clip_task(AlignTextImages(model=MODELS[kind], captions=UNREAD))
    if kind == "code_denoiser":
        config = DenoiseCodes(model=MODELS[kind], captions=UNREAD, image_size=SIDE)
        return CodeDenoising(config, None, TOKENIZER, Clip(MODELS["clip"], rngs=nnx.Rngs(6)))
    if kind.endswith("_prior"):
        return prior_task(kind)
    if kind == "pixel_decoder":
        config = DenoiseImages(model=MODELS[kind], captions=UNREAD)
        return ImageDecoding(config, None, Clip(MODELS["clip"], rngs=nnx.Rngs(6)))
    if kind == "upsampler":
        return ImageUpsampling(UpsampleImages(model=MODELS[kind], image_size=SIDE, crop=8))
    return code_task(kind, blank_captions=0.0 if kind == "dalle" else 0.3)  # microbatches draw other blanks


def clip_task(config: AlignTextImages) -> TextImageAlignment:
    return TextImageAlignment(config, captions=None, image_tokenizer=TOKENIZER)


def prior_task(kind: str) -> EmbeddingPrediction:
    """Return the task of a prior whose statistics were measured on random vectors."""
    config = PredictEmbeddings(model=MODELS[kind], captions=UNREAD, text_length=TEXT, image_size=SIDE)
    task = EmbeddingPrediction(config, None, Clip(MODELS["clip"], rngs=nnx.Rngs(6)))
    vectors = np.random.default_rng(1).normal(size=(2, 40, 8)).astype(np.float32)
    return task.with_measurements({"image": vectors[0] / 3, "text": vectors[1] / 3})


def code_task(kind: str, blank_captions: float) -> CodeGeneration:
    config = GenerateCodes(
        model=MODELS[kind], image_tokenizer="unread", image_size=SIDE, captions=UNREAD, blank_captions=blank_captions
    )
    return CodeGeneration(config, captions=None, image_tokenizer=TOKENIZER)


def batch_of() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "pixels": random.integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8),
        "text": random.integers(1, VOCABULARY, (ROWS, TEXT)).astype(np.int32),
        "caption_group": np.arange(ROWS, dtype=np.int32) // 2,
        "codes": random.integers(0, 16, (ROWS, 16)).astype(np.int32),
        "crops": random.integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8),
        "condition": random.normal(size=(ROWS, 3, 8)).astype(np.float32),
    }


def trainer_of(accumulate: int) -> Trainer:
    return Trainer(
        steps=10,
        schedule=ConstantRate(1e-3),
        optimizer=AdamW(beta1=0.0),
        ema=ConstantEma(0.9),
        accumulate=accumulate,
    )


@functools.cache
def initial_values(kind: str) -> State:
    """Return the initial state of the kind, as arrays of numpy."""
    layout = Layout(make_mesh(ONE), Rules())
    return jax.device_get(CompiledTask(task_of(kind), trainer_of(1), layout).state_spec.init_sharded(layout, 0))


def initial_state(kind: str, compiled: CompiledTask, layout: Layout) -> State:
    """Initialise on the mesh for the kinds of every mesh; copy the others' values, since that compiles nothing."""
    if kind in ON_EVERY_MESH or layout.mesh.size == 1:
        return compiled.state_spec.init_sharded(layout, 0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, compiled.state_spec.target())
    return jax.device_put(initial_values(kind), shardings)


@functools.cache
def run(kind: str, mesh: Mesh, accumulate: int = 1) -> SimpleNamespace:
    """Take one step of the trainer; return its loss, gradients and new state, and what XLA printed."""
    layout = Layout(make_mesh(mesh), Rules())
    compiled = CompiledTask(task_of(kind), trainer_of(accumulate), layout)
    initial, batch = initial_state(kind, compiled, layout), layout.put_batch(batch_of())
    with printed_by_xla() as said:
        state, sums = compiled.step(initial, None, batch)
    adams = state.learned.optimizers.values()
    moments = {moment: {k: v for one in adams for k, v in getattr(one, moment).items()} for moment in ("mu", "nu")}
    adam = SimpleNamespace(**moments)
    return SimpleNamespace(
        kind=kind,
        loss=float(sums["loss"][0]) / float(sums["loss"][1]),
        gradients={name: np.asarray(value) for name, value in adam.mu.items()},
        state=state,
        adam=adam,
        spec=compiled.state_spec,
        devices=layout.mesh.size,
        said=said(),
    )


LEAST_SCALE = {"code_denoiser": 2e-2}
"""By kind, the least share of the largest gradient that errors are compared with. One bias here has only rounding."""


def assert_the_same(many: SimpleNamespace, one: SimpleNamespace) -> None:
    """Compare to 1e-5 of the loss, and of the largest entry of each parameter's gradient.

    A gradient of nothing but rounding (a bias that moves all logits alike) is held against the largest of all.
    """
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
    assert many.gradients.keys() == one.gradients.keys()
    largest = max(np.abs(gradient).max() for gradient in one.gradients.values())
    for name, gradient in one.gradients.items():
        scale = max(np.abs(gradient).max(), LEAST_SCALE.get(one.kind, 1e-2) * largest)
        np.testing.assert_allclose(many.gradients[name] / scale, gradient / scale, atol=1e-5, err_msg=name)


def cases(*meshes: str) -> list:
    """Return every task with each of the meshes."""
    slow = {(kind, name) for kind in KINDS if kind not in ON_EVERY_MESH for name in meshes if name != "2x2x2"}
    slow |= {(kind, name) for kind in ONLY_SLOW for name in meshes}
    return [
        pytest.param(kind, name, marks=[pytest.mark.slow] if (kind, name) in slow else [])
        for kind in KINDS
        for name in meshes
    ]


CASES = cases(*MESHES)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_eight_devices_compute_the_loss_and_gradients_of_one(kind, name):
    many = run(kind, MESHES[name])
    assert many.devices == 8
    assert_the_same(many, run(kind, ONE))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_xla_replicates_no_array_to_reshard_it(kind, name):
    assert REPLICATES not in run(kind, MESHES[name]).said


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_parameters_moments_and_ema_are_sharded_by_the_rules(kind, name):
    many = run(kind, MESHES[name])
    assert (
        many.state.learned.params.keys()
        == many.state.learned.ema_params.keys()
        == many.adam.mu.keys()
        == many.adam.nu.keys()
    )
    for path, value in many.state.learned.params.items():
        expected = by_the_rules(many.spec.module_spec.axes(path), value.ndim)
        for tree in (many.state.learned.params, many.state.learned.ema_params, many.adam.mu, many.adam.nu):
            assert tree[path].sharding.spec == expected, path
            shard = tree[path].sharding.shard_shape(value.shape)
            split = [entry for entry in expected if entry is not None]
            parts = [getattr(MESHES[name], axis) for axis in split]
            assert value.size // np.prod(shard) == np.prod(parts), path


def by_the_rules(axes: tuple[str | None, ...], dimensions: int) -> P:
    """Shard embeddings and channels over fsdp, heads, hidden width and vocabularies over tensor; replicate the rest.

    A mesh axis splits the first of the dimensions that have it.
    """
    table = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor", "codes": "tensor"}
    table["channels"] = "fsdp"
    entries = [None] * (dimensions - len(axes)) + [None if axis is None else table.get(axis) for axis in axes]
    entries = [None if entry in entries[:i] else entry for i, entry in enumerate(entries)]
    while entries and entries[-1] is None:
        entries.pop()
    return P(*entries)


SPECS = {
    "tokenizer": {
        "encoder.stem.kernel": P(None, None, "fsdp"),
        "decoder.blocks.0.convs.0.kernel": P(None, None, None, "fsdp"),
        "decoder.blocks.0.convs.0.bias": P("fsdp"),
        "decoder.head.kernel": P(None, None, None, "fsdp"),
    },
    "dvae": {
        "encoder.input.kernel": P(None, None, None, "fsdp"),
        "encoder.groups.1.0.skip.kernel": P(None, None, None, "fsdp"),
        "encoder.output.kernel": P(None, None, "fsdp"),
        "decoder.input.kernel": P(None, None, "fsdp"),
    },
    "vqgan": {
        "generator.codebook": P("fsdp"),
        "generator.encoder.levels.0.blocks.0.norm1.scale": P("fsdp"),
        "generator.encoder.middle.attention.q.kernel": P(None, None, None, "fsdp"),
        "generator.into_codes.kernel": P(None, None, None, "fsdp"),
        "discriminator.convs.1.kernel": P(None, None, None, "fsdp"),
        "discriminator.convs.2.kernel": P(None, None, "fsdp"),
        "discriminator.norms.0.scale": P("fsdp"),
    },
    "dalle": {
        "text_embedding.table": P("tensor", "fsdp"),
        "codes.embedding.table": P("tensor", "fsdp"),
        "codes.head.kernel": P("fsdp", "tensor"),
        "codes.read.up.kernel": P(None, "fsdp"),
        "codes.read.down.kernel": P("tensor", "fsdp"),
        "code_positions.rows.table": P(None, "fsdp"),
        "stack.blocks.attention.qkv.kernel": P(None, "fsdp", None, "tensor"),
        "stack.blocks.attention.out.kernel": P(None, "tensor", None, "fsdp"),
        "stack.blocks.mlp.up.kernel": P(None, "fsdp", "tensor"),
        "stack.blocks.mlp.down.kernel": P(None, "tensor", "fsdp"),
        "stack.blocks.mlp_norm.scale": P(None, "fsdp"),
        "text_head.kernel": P("fsdp", "tensor"),
        "bos": P("fsdp"),
    },
    "dalle_bart": {
        "encoder.tokens.table": P("tensor", "fsdp"),
        "encoder.stack.blocks.0.glu.up.kernel": P("fsdp", None, "tensor"),
        "stack.blocks.0.cross.q.kernel": P("fsdp", "tensor"),
        "stack.blocks.0.cross.out.kernel": P("tensor", None, "fsdp"),
        "positions.table": P(None, "fsdp"),
        "codes.head.kernel": P("fsdp", "tensor"),
    },
    "llamagen": {
        "condition.up.kernel": P(None, "fsdp"),
        "condition.down.kernel": P("tensor", "fsdp"),
        "codes.head.kernel": P("fsdp", "tensor"),
        "stack.blocks.attention.qkv.kernel": P(None, "fsdp", None, "tensor"),
        "stack.blocks.mlp.up.kernel": P(None, "fsdp", None, "tensor"),
        "stack.blocks.attention_norm.scale": P(None, "fsdp"),
        "norm.scale": P("fsdp"),
    },
    "clip": {
        "vision.embed.kernel": P(None, "fsdp"),
        "vision.stack.blocks.0.qkv.kernel": P("fsdp", None, "tensor"),
        "vision.project.kernel": P("fsdp"),
        "text.tokens.table": P("tensor", "fsdp"),
        "text.stack.blocks.0.down.kernel": P("tensor", "fsdp"),
        "log_scale": P(),
    },
    "code_denoiser": {
        "inputs.kernel": P(None, "fsdp"),
        "clip_tokens.kernel": P(None, None, "fsdp"),
        "stack.blocks.modulation.kernel": P(None, "fsdp"),
        "stack.blocks.qkv.kernel": P(None, "fsdp", None, "tensor"),
        "head.kernel": P("fsdp", "tensor"),
        "no_clip": P(),
    },
    "pixel_decoder": {
        "network.text.tokens.table": P("tensor", "fsdp"),
        "network.text.stack.blocks.0.qkv.kernel": P("fsdp", None, "tensor"),
        "network.clip_to_tokens.kernel": P(None, None, "fsdp"),
        "network.unet.down.0.block.conv1.kernel": P(None, None, None, "fsdp"),
        "network.unet.down.0.attention.context.kernel": P("fsdp", None, "tensor"),
        "network.unet.time_in.kernel": P("fsdp", "tensor"),
        "network.no_clip": P(),
    },
    "upsampler": {
        "network.unet.middle.0.block.conv2.kernel": P(None, None, None, "fsdp"),
        "network.unet.down.0.block.time.kernel": P("fsdp"),
        "network.unet.norm.scale": P("fsdp"),
    },
    "one_step_prior": {
        "text_in.kernel": P(None, "fsdp"),
        "query": P("fsdp"),
        "positions.table": P(None, "fsdp"),
        "stack.blocks.qkv.kernel": P(None, "fsdp", None, "tensor"),
        "head.kernel": P("fsdp"),
    },
    "autoregressive_prior": {
        "vector_in.kernel": P(None, "fsdp"),
        "code_in.table": P("tensor", "fsdp"),
        "dot_product_in.table": P("tensor", "fsdp"),
        "stack.blocks.mlp.up.kernel": P(None, "fsdp", "tensor"),
        "head.kernel": P("fsdp", "tensor"),
    },
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in ONLY_SLOW else []) for kind in KINDS]
)
def test_these_parameters_have_these_shardings(kind):
    params = run(kind, MESHES["2x2x2"]).state.learned.params
    assert {name: params[name].sharding.spec for name in SPECS[kind]} == SPECS[kind]


@pytest.mark.parametrize(("kind", "name"), cases(*(name for name in MESHES if name != "8x1x1")))
def test_every_matrix_is_sharded_if_the_mesh_allows(kind, name):
    many = run(kind, MESHES[name])
    for path, value in many.state.learned.params.items():
        if is_matrix(path, many.spec.module_spec.axes(path), value.shape):
            assert not value.sharding.is_fully_replicated, path


def test_two_slices_compute_the_gradients_of_one_device_and_each_holds_all_parameters():
    many = run("dalle", Mesh(1, 2, 2, slices=2))
    assert_the_same(many, run("dalle", ONE))
    params = many.state.learned.params
    assert {name: params[name].sharding.spec for name in SPECS["dalle"]} == SPECS["dalle"]


def test_heads_that_tensor_does_not_divide_are_refused():
    with pytest.raises(UserError, match=r"attention.*'heads' of size 2 .* tensor of 4 .* the nearest .* are 4"):
        run("dalle", Mesh(1, 2, 4))


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    layout = Layout(make_mesh(MESHES["8x1x1"]), Rules())
    with pytest.raises(UserError, match=r"'batch' of size 12 .* data and fsdp of 8 devices; .* 8 or 16"):
        layout.put_batch({name: rows[:12] for name, rows in batch_of().items()})


def test_microbatches_that_the_mesh_cannot_shard_are_refused():
    with pytest.raises(UserError, match=r"multiple of 32 \(accumulate=4 times 8 devices\), got 16, .* 4 rows"):
        run("tokenizer", MESHES["8x1x1"], accumulate=4)
