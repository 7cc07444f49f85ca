"""Every task on eight devices: the same loss and gradients as on one, and every parameter where the rules put it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.dalle_bart import DalleBartConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load import build
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.captions import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.tokenize_images import TokenizeImages
from dalle_jax.train.optimizers import AdamW
from dalle_jax.train.state import plan

MESHES = {"8x1x1": Mesh(8, 1, 1), "1x8x1": Mesh(1, 8, 1), "2x2x2": Mesh(2, 2, 2)}
VQVAE = VqvaeConfig(downsample=4, width=16, blocks=1, codebook_size=16, code_width=8, stem="patch")
TOWER = TowerConfig(width=16, layers=1, heads=2)
ROWS, SIDE, TEXT, VOCABULARY = 16, 16, 6, 32
CODES = {"text_vocab": VOCABULARY, "text_length": TEXT, "codebook_size": 16, "grid": (4, 4), "width": 16}
MODELS = {
    "dalle": DalleConfig(
        **CODES, depth=3, heads=2, head_size=8, attention=("full", "row", "column"), code_width=8, scan=True
    ),
    "dalle_bart": DalleBartConfig(
        **CODES, encoder_layers=1, encoder_heads=2, encoder_hidden=32, decoder_layers=1, decoder_heads=2,
        decoder_hidden=32,
    ),
    "clip": ClipConfig(
        image_size=SIDE, patch=8, vision=TOWER, vocab_size=VOCABULARY, text_length=TEXT, text=TOWER, embed_width=8
    ),
}  # fmt: skip


class WithoutFiles:
    """A task whose tokenizer and text come from here and not from files."""

    def __init__(self, task):
        self._task, self._tokenizer = task, Vqvae(VQVAE, rngs=nnx.Rngs(5))

    def __getattr__(self, name):
        return getattr(self._task, name)

    def init(self, rngs):
        module = build(self._task.model, rngs)
        if getattr(self._task.model, "code_width", 0) and isinstance(self._task, GenerateCodes):
            module.codes.know(self._tokenizer.code_vectors)
        return module

    def frozen(self):
        return None if isinstance(self._task, TokenizeImages) else self._tokenizer


def task_of(kind: str) -> WithoutFiles:
    text = Captions(file="unread")
    if kind == "tokenizer":
        return WithoutFiles(TokenizeImages(model=VQVAE, image_size=SIDE, l1=0.2))
    if kind == "clip":
        return WithoutFiles(AlignTextImages(model=MODELS[kind], captions=text))
    return WithoutFiles(GenerateCodes(model=MODELS[kind], image_tokenizer="unread", image_size=SIDE, captions=text))


def batch_of() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "pixels": random.integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8),
        "text": random.integers(1, VOCABULARY, (ROWS, TEXT)).astype(np.int32),
        "meaning": np.arange(ROWS, dtype=np.int32) // 2,
    }


def run(kind: str, mesh: Mesh, devices) -> SimpleNamespace:
    """Loss and gradients of one batch, and what lies where."""
    task, layout = task_of(kind), Layout(make_mesh(mesh, devices), Rules())
    planned = plan(task, AdamW(), True, layout)
    state = planned.born(layout, 0)
    frozen = task.frozen()

    def loss(params, others, batch):
        module = planned.blueprint.merge(params, others)
        return task.loss(module, frozen, batch, jax.random.key(1), jnp.int32(0))[0]

    batch = layout.put_batch(batch_of())
    found, gradients = layout.jit(jax.value_and_grad(loss))(state.params, state.others, batch)
    return SimpleNamespace(loss=float(found), gradients=gradients, state=state, planned=planned, layout=layout)


@pytest.fixture(scope="module", params=["tokenizer", "dalle", "dalle_bart", "clip"])
def alone(request) -> tuple[str, SimpleNamespace]:
    return request.param, run(request.param, Mesh(1, 1, 1), jax.devices()[:1])


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_find_the_loss_and_gradients_of_one(alone, name):
    kind, one = alone
    many = run(kind, MESHES[name], jax.devices())
    assert many.layout.mesh.size == 8
    np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
    for path, gradient in one.gradients.items():
        rounding = 1e-5 * max(1.0, float(jnp.abs(gradient).max()))
        np.testing.assert_allclose(many.gradients[path], gradient, atol=rounding, err_msg=path)
    for path, value in many.state.params.items():
        expected = by_the_rules(many.planned.blueprint.axes(path), value.ndim)
        assert value.sharding.spec == expected, path
        assert many.state.average[path].sharding.spec == expected, path


def by_the_rules(axes: tuple[str | None, ...], dimensions: int) -> PartitionSpec:
    """Embeddings over fsdp, heads, hidden width and vocabularies over tensor, layers and all else whole."""
    table = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor", "codes": "tensor"}
    entries = [None] * (dimensions - len(axes)) + [None if axis is None else table.get(axis) for axis in axes]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


@pytest.mark.parametrize("kind", ["dalle", "dalle_bart", "clip"])
def test_no_matrix_is_whole_on_a_device_of_a_mesh_that_splits_parameters(kind):
    layout = Layout(make_mesh(MESHES["2x2x2"], jax.devices()), Rules())
    planned = plan(task_of(kind), AdamW(), False, layout)
    for path, sharding in planned.shardings.params.items():
        shape = planned.abstract.params[path].shape
        axes = planned.blueprint.axes(path)
        if len(shape) >= 2 and set(axes) & {"embed", "heads", "mlp", "vocab", "codes"}:
            assert sharding.spec != PartitionSpec(), (path, axes, shape)
