from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.losses.condition_contrastive import condition_contrastive
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.code_generator import prepare_for_sampling
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.lpips import LpipsConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.load.models import ModelFile
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.fine_tuning.align_conditions import AlignConditions, ConditionAlignment
from dalle_jax.tasks.fine_tuning.fine_tuned_generation import load_reference
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.train.compiled import CompiledTask
from tests.parallel.test_sharded_tasks import batch_of as batch_of_pixels
from tests.parallel.test_sharded_tasks import code_task, trainer_of

MODEL = DalleConfig(
    text_vocab=9, text_length=3, codebook_size=8, grid=(2, 2), width=16, depth=1, heads=2, head_size=8
)  # fmt: skip
KEY, STEP = jax.random.key(0), jnp.int32(0)


def task_of(blank_captions: float = 0.0) -> ConditionAlignment:
    """Return a task on precomputed codes whose reference is a transformer of another seed."""
    generate = GenerateCodes(model=MODEL, captions=Captions(file="unread"), blank_captions=blank_captions)
    reference = Dalle(MODEL, rngs=nnx.Rngs(1))
    prepare_for_sampling(reference)
    config = AlignConditions(generate=generate, reference="unread", beta=0.1, negative_weight=3.0)
    return ConditionAlignment(CodeGeneration(generate, None, None), reference, config)


@pytest.fixture(scope="module")
def module() -> Dalle:
    return Dalle(MODEL, rngs=nnx.Rngs(0))


def batch_of(text: list[list[int]], group: list[int]) -> dict:
    codes = jax.random.randint(jax.random.key(3), (len(text), 4), 0, 8)
    return {"codes": codes, "text": jnp.array(text), "caption_group": jnp.array(group)}


DISTINCT = [[1, 2, 0], [3, 4, 0], [5, 6, 7]]


def test_the_loss_is_that_of_the_two_transformers_on_own_and_on_next_captions(module):
    task, batch = task_of(), batch_of(DISTINCT, [1, 2, 3])
    loss, sums = task.loss(module, task.frozen(), batch, KEY, STEP)

    def ratio(text):
        of = [-cross_entropy(one(text, batch["codes"]).image, batch["codes"]).sum(-1) for one in two]
        return of[0] - of[1]

    two = (module, Dalle(MODEL, rngs=nnx.Rngs(1)))
    matched, mismatched = ratio(batch["text"]), ratio(batch["text"][jnp.array([1, 2, 0])])
    expected = condition_contrastive(matched, mismatched, jnp.ones(3, bool), beta=0.1, negative_weight=3.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(sums["matched_gain"], (matched.sum(), 3), rtol=1e-4)
    np.testing.assert_allclose(sums["mismatched_gain"], (mismatched.sum(), 3), rtol=1e-4)
    np.testing.assert_allclose(sums["prefers_match"], ((matched > mismatched).sum(), 3))


def test_captions_of_one_group_or_of_equal_tokens_are_no_negatives(module):
    task = task_of()
    (_, paraphrased), (_, equal) = (
        task.loss(module, task.frozen(), batch, KEY, STEP)
        for batch in (batch_of(DISTINCT, [1, 1, 3]), batch_of([[1, 2, 0], [1, 2, 0], [5, 6, 7]], [1, 2, 3]))
    )
    assert paraphrased["matched_gain"][1] == equal["matched_gain"][1] == 2


def test_an_image_without_caption_has_no_negative(module):
    task = task_of(blank_captions=0.999999)
    batch = batch_of(DISTINCT, [1, 2, 3])
    loss, sums = task.loss(module, task.frozen(), batch, KEY, STEP)
    assert sums["matched_gain"][1] == 0
    blank = dict(batch, text=jnp.zeros_like(batch["text"]))
    np.testing.assert_allclose(loss, task_of().loss(module, task.frozen(), blank, KEY, STEP)[0], rtol=1e-6)


def test_a_batch_of_one_row_is_refused(module):
    task = task_of()
    with pytest.raises(ValueError, match="expected at least 2 rows"):
        task.loss(module, task.frozen(), batch_of(DISTINCT[:1], [1]), KEY, STEP)


def test_the_reference_gets_no_gradient_and_the_module_does(module):
    task, batch = task_of(), batch_of(DISTINCT, [1, 2, 3])

    def loss(both):
        return task.loss(both[0], {"reference": both[1]}, batch, KEY, STEP)[0]

    trained, frozen = nnx.grad(loss)((module, Dalle(MODEL, rngs=nnx.Rngs(1))))
    assert max(float(jnp.abs(one).max()) for one in jax.tree.leaves(trained)) > 0
    assert all(float(jnp.abs(one).max()) == 0 for one in jax.tree.leaves(frozen))


def test_a_plan_has_an_abstract_reference():
    config = replace(task_of().config, reference="absent")
    leaves = jax.tree.leaves(nnx.state(config.open_for_plan().frozen()["reference"]))
    assert leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(MODEL, codebook_size=16), r"expected a transformer of the text_vocab.*\(9, 3, 8, \(2, 2\)\), got"),
        (
            LpipsConfig(),
            "expected the folder of a text-to-image transformer, got one of a Lpips",
        ),
    ],
)
def test_a_reference_of_other_codes_or_of_another_kind_is_refused(model, message, tmp_path):
    (tmp_path / "model.gin").write_text(render(ModelFile(model)))
    with pytest.raises(UserError, match=message):
        load_reference(str(tmp_path), MODEL, Layout(make_mesh(Mesh(1, 1, 1)), Rules()))


def test_settings_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match=r"beta: expected more than 0, got 0\.0"):
        replace(task_of().config, beta=0.0)


@pytest.mark.slow
def test_eight_devices_compute_the_loss_and_gains_of_one():
    plain = code_task("dalle", blank_captions=0.0)
    reference = plain.init(nnx.Rngs(5))
    prepare_for_sampling(reference)
    config = AlignConditions(generate=plain.config, reference="unread", beta=0.1, negative_weight=3.0)
    task = ConditionAlignment(plain, reference, config)
    found = []
    for mesh in (Mesh(1, 1, 1), Mesh(2, 2, 2)):
        layout = Layout(make_mesh(mesh), Rules())
        compiled = CompiledTask(task, trainer_of(1), layout)
        state = compiled.state_spec.init_sharded(layout, 0)
        found.append(jax.device_get(compiled.step(state, None, layout.put_batch(batch_of_pixels()))[1]))
    assert found[0].keys() >= {"loss", "matched_gain", "mismatched_gain", "prefers_match"}
    for name, (total, count) in found[0].items():
        np.testing.assert_allclose(found[1][name][0] / found[1][name][1], total / count, rtol=1e-4, err_msg=name)
