"""Training by rewards with a transformer of four codes, whose reward is the brightness of its images."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import prepare_for_sampling
from dalle_jax.models.dalle import Dalle, DalleConfig
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.rewards.reward import FunctionReward
from dalle_jax.rewards.reward_mixture import RewardMixture
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.tasks.reinforcement.named_prompts import PromptChoice, PromptList
from dalle_jax.tasks.reinforcement.reinforce import Reinforce, Reinforcement
from dalle_jax.train.task import step_spec
from tests.tasks.reinforcement.one_and_eight_devices import check_eight_devices_are_as_one

MODEL = DalleConfig(
    text_vocab=10, text_length=3, codebook_size=8, grid=(2, 2), width=16, depth=1, heads=2, head_size=8, code_width=4
)  # fmt: skip
VQVAE = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=8, code_width=4, stem="patch")
TOKENIZER = nnx.jit(lambda: Vqvae(VQVAE, rngs=nnx.Rngs(5)))()
KEY, STEP = jax.random.key(0), jnp.int32(0)
TEXT = np.array([[1, 2, 0], [3, 4, 0], [5, 6, 7], [8, 0, 0]], np.int32)
CONFIG = Reinforce(
    generate=GenerateCodes(
        model=MODEL, captions=Captions(file="unread"), image_tokenizer="unread", image_size=8, blank_captions=0.0
    ),
    reference="unread",
    group=3,
    trained_groups=2,
)  # fmt: skip


def brightness(images, prompts):
    assert len(images) == len(prompts)
    return images.mean(axis=(1, 2, 3)) / 255


def task_of(**changes) -> Reinforcement:
    """Return a task whose reference is a transformer of another seed."""
    config = replace(CONFIG, **changes)
    reference = dalle(1)
    prepare_for_sampling(reference)
    generate = CodeGeneration(config.generate, None, TOKENIZER)
    rewards = RewardMixture({"bright": FunctionReward(brightness, 2.0)})
    return Reinforcement(generate, reference, config, rewards, PromptChoice(None, 0, 0.5))


def dalle(seed: int) -> Dalle:
    graph, state = parts_of(seed)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))  # a copy, since a rollout changes its module


@functools.cache
def parts_of(seed: int) -> tuple:
    def build():
        module = Dalle(MODEL, rngs=nnx.Rngs(seed))
        module.codes.head.kernel[...] = jax.random.normal(jax.random.key(seed), module.codes.head.kernel.shape)
        module.set_code_vectors(TOKENIZER.code_vectors)
        return module

    return nnx.split(nnx.jit(build)())


def logits_of(seed, text, codes):
    compute = nnx.jit(lambda module, text, codes: module(text, codes).image)
    return np.asarray(compute(dalle(seed), jnp.asarray(text), jnp.asarray(codes)))


def rolled_out(task):
    run = nnx.jit(lambda module, frozen, batch, key: task.rollout(module, frozen, batch, key))
    found = run(dalle(0), task.frozen(), {"prompt": jnp.asarray(TEXT)}, KEY)
    return {name: np.asarray(one) for name, one in found.items()}


@pytest.fixture(scope="module")
def samples():
    return rolled_out(task_of(updates=2))


def loss_of(task, batch):
    run = nnx.jit(lambda module, frozen, batch: task.loss(module, frozen, batch, KEY, STEP))
    return run(dalle(0), task.frozen(), jax.tree.map(jnp.asarray, batch))


def test_a_rollout_has_the_images_of_its_codes_and_their_log_probability(samples):
    codes = samples["codes"].reshape(-1, 4)
    pixels = nnx.jit(lambda tokenizer, grids: tokenizer.decode(grids))(TOKENIZER, jnp.asarray(codes).reshape(-1, 2, 2))
    expected = np.round(np.clip(pixels, 0, 1) * 255).reshape(samples["images"].shape)
    assert np.abs(samples["images"].astype(float) - expected).max() <= 1
    log_p = jax.nn.log_softmax(logits_of(0, TEXT.repeat(3, axis=0), codes))
    chosen = np.take_along_axis(np.asarray(log_p), codes[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(samples["log_prob"].reshape(-1, 4), chosen, atol=1e-4)
    assert any(len({row.tobytes() for row in group}) > 1 for group in samples["codes"])


def test_the_steps_share_the_groups_of_largest_spread_with_their_advantages(samples):
    task = task_of(updates=2)
    rewards = task.judge(["a", "b", "c", "d"], samples)
    total = 2.0 * rewards["bright"]
    batches, sums = task.training_batches(samples, rewards)
    widest = np.sort(np.argsort(-total.std(axis=1))[:2])
    for batch, group in zip(batches, widest, strict=True):
        np.testing.assert_array_equal(batch["codes"], samples["codes"][group])
        np.testing.assert_array_equal(batch["text"], TEXT[[group] * 3])
        own = total[group]
        np.testing.assert_allclose(batch["advantage"], (own - own.mean()) / own.std(), rtol=1e-4)
        np.testing.assert_array_equal(batch["old_log_prob"], samples["log_prob"][group])
        assert {name: (one.shape, one.dtype) for name, one in batch.items()} == {
            name: (one.shape, one.dtype) for name, one in step_spec(task, 4).items()
        }
    assert sums["reward"] == (pytest.approx(total.sum()), 12.0) and sums["live_groups"] == (4.0, 4.0)


def test_images_of_the_data_are_an_anchor_whose_loss_is_their_nll(samples):
    task = task_of(anchor=0.5, kl=0.0)
    given = samples | {"anchor_text": TEXT, "anchor_codes": samples["codes"][:, 0]}
    (batch,), _ = task.training_batches(given, {"bright": np.arange(12.0).reshape(4, 3)})
    assert {name: one.shape for name, one in batch.items()} == {
        name: one.shape for name, one in task.training_spec(4).items()
    }
    loss, sums = loss_of(task, batch | {"advantage": np.zeros(10, np.float32)})
    log_p = jax.nn.log_softmax(logits_of(0, TEXT, given["anchor_codes"]))
    nll = -np.take_along_axis(log_p, given["anchor_codes"][..., None], axis=-1).mean()
    np.testing.assert_allclose(loss, 0.5 * nll, rtol=1e-5)
    np.testing.assert_allclose(sums["anchor_nll"], (4 * nll, 4.0), rtol=1e-5)
    assert sums["kl"][1] == 6.0


def test_the_loss_is_the_clipped_policy_gradient_with_kl_and_entropy(samples):
    task = task_of(updates=2, kl=0.3, entropy=0.2, clip=0.1)
    batch = task.training_batches(samples, task.judge("abcd", samples)).batches[0]
    shifted = batch | {"old_log_prob": batch["old_log_prob"] - np.float32(0.05) * np.arange(4, dtype=np.float32)}
    loss, sums = loss_of(task, shifted)
    log_p, log_q = (jax.nn.log_softmax(logits_of(seed, batch["text"], batch["codes"])) for seed in (0, 1))
    p, advantage = np.exp(log_p), batch["advantage"][:, None]
    ratio = np.exp(0.05 * np.arange(4))[None]
    gain = np.minimum(ratio * advantage, np.clip(ratio, 0.9, 1.1) * advantage).mean()
    kl, entropy = (p * (log_p - log_q)).sum(-1).mean(), -(p * log_p).sum(-1).mean()
    np.testing.assert_allclose(loss, -gain + 0.3 * kl - 0.2 * entropy, rtol=1e-3)
    np.testing.assert_allclose(sums["kl"][0] / sums["kl"][1], kl, rtol=1e-4)
    assert 0.0 < sums["clipped"][0] / sums["clipped"][1] < 0.5


@pytest.mark.slow
def test_a_guided_policy_is_the_guided_model(samples):
    task = task_of(guidance=2.0, policy="guided")
    batch = task.training_batches(samples, task.judge("abcd", samples)).batches[0]
    _, sums = loss_of(task, batch)
    text, codes = batch["text"], batch["codes"]
    with_text, without = logits_of(0, text, codes), logits_of(0, 0 * text, codes)
    p = np.asarray(jax.nn.softmax(without + 2.0 * (with_text - without)))
    np.testing.assert_allclose(sums["entropy"][0] / sums["entropy"][1], -(p * np.log(p)).sum(-1).mean(), rtol=1e-3)


def test_prompts_without_images_take_their_share_of_the_captions_by_the_seed_alone():
    choice = PromptChoice(PromptList(["named"], "a file"), 1, 0.25)
    seeds = [(0, step, row) for step in range(40) for row in range(10)]
    found = choice.choose(["seen"] * 400, seeds)
    assert 60 < found.count("named") < 140 and found.count("seen") + found.count("named") == 400
    assert choice.choose(["seen"] * 10, seeds[10:20]) == found[10:20]


def test_a_list_of_prompts_takes_each_once_per_epoch():
    prompts = PromptList(["a", "b", "c", "d"], "prompts", batch_size=2)
    epoch = [caption for step in range(2) for caption in prompts.batch(step, range(2))["caption"]]
    assert sorted(epoch) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "group: expected at least 2 images of a prompt, .* got 1"),
        ({"updates": 3}, "updates: expected at least 1 and a divisor of trained_groups 2, got 3"),
        ({"kl": -1.0}, r"kl: expected a weight from 0 to 1e\+06, got -1.0"),
        ({"kl": float("inf")}, r"kl: expected a weight from 0 to 1e\+06, got inf"),
        ({"anchor": 1e38}, r"anchor: expected a weight from 0 to 1e\+06, got 1e\+38"),
        ({"temperature": float("nan")}, "temperature: expected more than 0, and finite, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_a_config_without_rewards_is_refused():
    with pytest.raises(UserError, match=r"task\.rewards: expected at least one reward, .* dalle_jax\.reinforce"):
        CONFIG.open(Layout(make_mesh(Mesh(1, 1, 1)), Rules()))


@pytest.mark.slow
def test_eight_devices_sample_and_learn_as_one():
    check_eight_devices_are_as_one(task_of(trained_groups=None, group=4), TEXT)
