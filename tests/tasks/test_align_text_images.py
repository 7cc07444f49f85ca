"""CLIP's task: batch statistics of the ResNet, the sigmoid loss, and the bound on the logit scale."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.losses.contrastive import contrastive, same_caption_group, sigmoid
from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.models.clip_resnet import ResNetConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.align_text_images import AlignTextImages, TextImageAlignment
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.negatives.scene_negatives import SceneNegatives
from dalle_jax.text.sentencepiece import train_sentencepiece
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.optimizers import AdamW
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer

LAYOUT = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
TOWER = TowerConfig(width=16, layers=1, heads=2)


def clip_config(**changes) -> ClipConfig:
    sizes = {"image_size": 32, "vocab_size": 30, "text_length": 6, "text": TOWER, "embed_width": 8}
    return ClipConfig(**({"patch": 16, "vision": TOWER} | sizes | changes))


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Captions:
    path = tmp_path_factory.mktemp("text") / "text.model"
    path.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    return Captions(file=str(path))


def batch_of(task: TextImageAlignment) -> dict:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(4)]
    examples = {"image": images, "caption": ["a red circle", "a blue square"] * 2, "caption_group": [0, 1, 0, 1]}
    return {name: jnp.asarray(rows) for name, rows in task.prepare(examples, [(0, row) for row in range(4)]).items()}


def initialised(task: TextImageAlignment):
    """Create the network in one compiled function, which is several times faster than op by op."""
    graph = nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))[0]
    return nnx.merge(graph, jax.jit(lambda: nnx.split(task.init(nnx.Rngs(0)))[1])())


def trained(task: TextImageAlignment, module, batch):
    """Return the loss, the sums, the gradients, and the variables that are not parameters."""
    graph, params, others = nnx.split(module, nnx.Param, ...)

    @jax.jit
    def step(params, others):
        def loss(params):
            merged = nnx.merge(graph, params, others, copy=True)
            value, sums = task.loss(merged, {}, batch, jax.random.key(0), jnp.int32(0))
            return value, (sums, nnx.split(merged, nnx.Param, ...)[2])

        (value, (sums, others)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return value, sums, gradients, others

    return step(params, others)


def test_a_resnet_trains_by_its_batch_and_is_evaluated_by_its_statistics(captions):
    model = clip_config(patch=32, vision=ResNetConfig(width=2, layers=(1, 1, 1, 1)))
    task = AlignTextImages(model=model, captions=captions).open(LAYOUT)
    module = initialised(task)
    batch = batch_of(task)
    value, sums, gradients, others = trained(task, module, batch)
    assert np.isfinite(float(value)) and set(sums) == {"loss", "logit_scale", "loss_of_uniform"}
    leaves = jax.tree.leaves(gradients["vision"]["stem"]) + jax.tree.leaves(gradients["vision"]["pool"]["project"])
    assert leaves and all(float(jnp.abs(leaf).max()) > 0 for leaf in leaves)
    before = nnx.split(module, nnx.Param, ...)[2]
    moved = jax.tree.map(lambda old, new: float(jnp.abs(new - old).max()), before, others)
    assert jax.tree.leaves(moved) and min(jax.tree.leaves(moved)) > 0
    apart = jax.jit(lambda x: [module.vision(x, train=False), module.vision(x[:1], train=False)])
    all_of_them, alone = apart(batch["pixels"] / 255.0)
    np.testing.assert_allclose(all_of_them[:1], alone, atol=1e-5)  # no image depends on the others


def test_the_sigmoid_loss_trains_scale_and_bias(captions):
    task = AlignTextImages(
        model=clip_config(initial_bias=-10.0, initial_scale=10.0), captions=captions, contrast="sigmoid"
    ).open(LAYOUT)
    module = initialised(task)
    batch = batch_of(task)
    value, sums, gradients, _ = trained(task, module, batch)
    encode = jax.jit(lambda batch: (module.encode_image(batch["pixels"] / 255.0), module.encode_text(batch["text"])))
    image, text = encode(batch)
    same = jnp.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2, bool)
    wanted = sigmoid(image, text, jnp.array(10.0), jnp.array(-10.0), same)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    assert abs(float(wanted) - float(contrastive(image, text, jnp.array(10.0), same))) > 1
    assert "loss_of_uniform" not in sums
    assert float(gradients["bias"][...]) < 0 and float(gradients["log_scale"][...]) != 0


@pytest.mark.parametrize(("bias", "contrast"), [(None, "sigmoid"), (-10.0, "softmax")])
def test_a_bias_without_the_sigmoid_and_a_sigmoid_without_a_bias_are_refused(captions, bias, contrast):
    with pytest.raises(ValueError, match=r"expected a bias for the sigmoid loss \(-10 in SigLIP\)"):
        AlignTextImages(model=clip_config(initial_bias=bias), captions=captions, contrast=contrast)


def test_a_noised_clip_trains_on_noised_images_and_is_evaluated_on_clean_ones(captions):
    task = AlignTextImages(model=clip_config(timesteps=4), captions=captions, noise=CosineNoise(4)).open(LAYOUT)
    module = initialised(task)
    batch = batch_of(task)

    @jax.jit
    def embedded(key):
        return task.embed(module, {}, batch, key, jnp.int32(0))

    one, same, other = (embedded(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image, same.image)
    assert jnp.abs(one.image - other.image).max() > 1e-3
    np.testing.assert_array_equal(one.text, other.text)
    clean = jax.jit(lambda: task.evaluate(module, {}, batch, jax.random.key(0)))()
    whole = jax.jit(lambda: module.encode_image(batch["pixels"] / 255.0))()
    wanted = contrastive(whole, one.text, module.logit_scale, jnp.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2, bool))
    np.testing.assert_allclose(clean["loss"][0], wanted, rtol=1e-4)
    _, _, gradients, _ = trained(task, module, batch)
    assert float(jnp.abs(gradients["vision"]["times"]["table"][...]).max()) > 0
    with pytest.raises(ValueError, match=r"model.timesteps: expected 4, the steps of noise, got 0"):
        AlignTextImages(model=clip_config(), captions=captions, noise=CosineNoise(4))


def test_sizes_that_a_resnet_cannot_have_are_refused(captions):
    vision = ResNetConfig(width=2, layers=(1, 1, 1, 1))
    for model, message in (
        (clip_config(patch=16, vision=vision), "patch: expected 32"),
        (clip_config(patch=32, vision=vision, timesteps=4), "timesteps: expected 0 for a ResNet, got 4"),
        (clip_config(patch=32, vision=vision, image_size=48), "expected a multiple of 32 px, got 48 px"),
        (
            clip_config(patch=32, vision=ResNetConfig(width=3, layers=(1, 1, 1, 1))),
            "channels: expected a multiple of 64",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            nnx.eval_shape(lambda model=model: model.build(nnx.Rngs(0)))


LN_100 = math.log(100)


def step_of(task: TextImageAlignment) -> Callable[[float], tuple[float, float]]:
    """Return a function of the log scale: its gradient, and its value after one step of the trainer from there."""
    trainer = Trainer(steps=10, schedule=ConstantRate(0.01), optimizer=AdamW(beta1=0.0))
    compiled = CompiledTask(task, trainer, LAYOUT)
    batch = {name: np.asarray(values) for name, values in batch_of(task).items()}

    def step(log_scale: float) -> tuple[float, float]:
        state = compiled.state_spec.init_sharded(LAYOUT, 0)
        learned = state.learned._replace(params=state.learned.params | {"log_scale": jnp.float32(log_scale)})
        state, _ = compiled.step(state._replace(learned=learned), None, LAYOUT.put_batch(batch))
        return float(state.learned.optimizers["align"].mu["log_scale"]), float(state.learned.params["log_scale"])

    return step


@pytest.fixture(scope="module")
def softmax(captions) -> TextImageAlignment:
    return AlignTextImages(model=clip_config(), captions=captions).open(LAYOUT)


@pytest.fixture(scope="module")
def softmax_step(softmax) -> Callable[[float], tuple[float, float]]:
    return step_of(softmax)


@pytest.fixture(scope="module")
def cosines(softmax) -> np.ndarray:
    """Return the cosines of all images with all captions at the start of training."""
    module, batch = initialised(softmax), batch_of(softmax)
    encode = jax.jit(lambda batch: (module.encode_image(batch["pixels"] / 255.0), module.encode_text(batch["text"])))
    image, text = (np.asarray(x, np.float64) for x in encode(batch))
    return image @ text.T


@pytest.mark.parametrize("log_scale", [LN_100 - 0.1, LN_100, LN_100 + 0.1])
def test_the_scale_has_its_full_gradient_below_at_and_above_its_bound(softmax_step, cosines, log_scale):
    """The expected value is the derivative of the softmax loss, computed from the embeddings in float64."""
    scale = math.exp(log_scale)
    targets = np.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2) / 2

    def slope(cosines):
        shares = np.exp(scale * (cosines - cosines.max(1, keepdims=True)))
        return ((shares / shares.sum(1, keepdims=True) - targets) * cosines).sum(1).mean()

    wanted = scale * (slope(cosines) + slope(cosines.T)) / 2
    gradient, _ = softmax_step(log_scale)
    assert abs(wanted) > 1e-3
    assert gradient == pytest.approx(wanted, rel=1e-3)


def test_the_scale_is_clipped_after_the_update_and_can_decrease_from_its_bound(softmax_step):
    gradient, after = softmax_step(LN_100 + 0.5)
    assert after == np.float32(LN_100)  # an update of 0.01 cannot have done it
    gradient, after = softmax_step(LN_100)
    assert gradient > 0 and after == pytest.approx(LN_100 - 0.01, abs=1e-5)


def test_the_scale_of_the_sigmoid_loss_has_no_bound(captions):
    task = AlignTextImages(
        model=clip_config(initial_bias=-10.0, initial_scale=10.0), captions=captions, contrast="sigmoid"
    ).open(LAYOUT)
    _, after = step_of(task)(LN_100 + 0.5)
    assert abs(after - LN_100 - 0.5) == pytest.approx(0.01, abs=1e-5)


def test_hard_negatives_join_the_loss_and_are_the_same_in_any_batch(captions):
    negatives = SceneNegatives(texts=2, images=1, blends=2)
    task = AlignTextImages(model=clip_config(), captions=captions, negatives=negatives).open(LAYOUT)
    texts = [
        "a small red circle",
        "a big blue square",
        "a red ring above a blue cross",
        "a green cross over a red ring",
    ]
    images = list(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    examples = {"key": texts, "image": images, "caption": texts, "caption_group": [0, 1, 2, 3]}
    rows = task.prepare(examples, [(0, 5, row) for row in range(4)])
    assert {name: (one.shape, one.dtype) for name, one in rows.items()} == {
        name: (one.shape, one.dtype) for name, one in task.batch_spec(4).items()
    }
    last = task.prepare({name: own[3:] for name, own in examples.items()}, [(0, 5, 3)])
    for name, own in rows.items():
        np.testing.assert_array_equal(own[3:], last[name])
    batch, module = {name: jnp.asarray(own) for name, own in rows.items()}, initialised(task)
    value, _, gradients, _ = trained(task, module, batch)
    assert float(jnp.abs(gradients["text"]["norm_after"]["bias"][...]).max()) > 0
    pixels = np.stack([rows["pixels"], rows["neighbour_pixels"][:, 0]], axis=1).reshape(8, 32, 32, 3)
    ids = np.stack([rows["text"], rows["neighbour_text"][:, 0]], axis=1).reshape(8, -1)
    image, text, wrong = jax.jit(
        lambda pixels, *ids: (module.encode_image(pixels / 255.0), *map(module.encode_text, ids))
    )(np.concatenate([pixels, rows["wrong_pixels"].reshape(8, 32, 32, 3)]), ids, rows["wrong_text"].reshape(16, -1))
    image, blends = image[:8], jnp.repeat(image[8:].reshape(4, 2, -1), 2, axis=0)  # wrong for the neighbours too
    groups = np.stack([rows["caption_group"], rows["neighbour_caption_group"][:, 0]], axis=1).reshape(-1)
    same = same_caption_group(jnp.asarray(ids), jnp.asarray(groups))
    wanted = contrastive(image, text, module.logit_scale, same, wrong=wrong.reshape(8, 2, -1), wrong_images=blends)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    held_out = {name: jnp.asarray(own) for name, own in task.prepare(examples, None).items()}
    assert held_out["wrong_text"].shape == (4, 1, 2, 6) and "neighbour_text" not in held_out
    share, weight = jax.jit(lambda batch: task.evaluate(module, {}, batch, jax.random.key(0)))(held_out)[
        "wrong_captions_top1"
    ]
    assert 0 <= float(share) <= float(weight) == 4
