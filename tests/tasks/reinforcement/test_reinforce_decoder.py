"""Training of small diffusion decoders by rewards, whose reward is the brightness of their images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.code_vectors import sample_codes
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion
from dalle_jax.models.code_denoiser import CodeDenoiserConfig, Guide
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.rewards.reward import FunctionReward
from dalle_jax.rewards.reward_mixture import RewardMixture
from dalle_jax.rewards.spread_codes import SpreadCodes
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.denoise_codes import CodeDenoising, DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages, ImageDecoding
from dalle_jax.tasks.image_denoising import TrainedDenoiser
from dalle_jax.tasks.reinforcement.named_prompts import PromptChoice, PromptList
from dalle_jax.tasks.reinforcement.reinforce_decoder import DecoderReinforcement, ReinforceDecoder
from dalle_jax.text.sentencepiece import train_sentencepiece
from dalle_jax.train.checkpoints.checkpoints import Checkpoints
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.loop import train
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.task import step_spec
from dalle_jax.train.trainer import Trainer
from tests.small_denoisers import decoder_config, random_module
from tests.tasks.reinforcement.one_and_eight_devices import check_eight_devices_are_as_one
from tests.tasks.reinforcement.test_reinforce import TEXT, TOKENIZER, brightness

KEY, STEP = jax.random.key(0), jnp.int32(0)
MODEL = CodeDenoiserConfig(
    text_vocab=10, text_length=3, embed_width=4, codebook_size=8, code_width=4, grid=(2, 2), width=16, layers=1, heads=2
)  # fmt: skip
CODES = ReinforceDecoder(
    denoise=DenoiseCodes(model=MODEL, captions=Captions(file="unread"), image_size=8, image_tokenizer="unread"),
    reference="unread",
    group=3,
    trained_groups=2,
    steps=4,
    trained_steps=2,
)  # fmt: skip
PIXELS = replace(
    CODES,
    denoise=DenoiseImages(
        model=replace(decoder_config(10, 4), diffusion=TrainedDiffusion(prediction="v")),
        captions=Captions(file="unread"),
        blank_clips=1.0,
    ),
    guidance=2.0,
)


def decoder(config: ReinforceDecoder, seed: int = 0) -> nnx.Module:
    module = random_module(lambda: config.policy.build(nnx.Rngs(0)))
    state = jax.tree.map(lambda leaf: leaf * (1 + 0.2 * seed), nnx.state(module, nnx.Param))
    nnx.update(module, state)
    return module


def task_of(config: ReinforceDecoder) -> DecoderReinforcement:
    """Return a task whose reference has other weights than ``module_of``."""
    denoise = config.denoise
    opened = (
        CodeDenoising(denoise, None, TOKENIZER, None)
        if isinstance(denoise, DenoiseCodes)
        else ImageDecoding(denoise, None, None)
    )
    rewards = RewardMixture({"bright": FunctionReward(brightness)})
    return DecoderReinforcement(opened, decoder(config, 1), config, rewards, PromptChoice(None, 0, 0.5))


def module_of(config: ReinforceDecoder) -> nnx.Module:
    network = decoder(config)
    return network if isinstance(config.denoise, DenoiseCodes) else TrainedDenoiser(network, None)


def rolled_out(config: ReinforceDecoder) -> dict[str, np.ndarray]:
    task = task_of(config)
    run = nnx.jit(lambda module, frozen, batch, key: task.rollout(module, frozen, batch, key))
    text = TEXT if isinstance(config.denoise, DenoiseCodes) else np.pad(TEXT, ((0, 0), (0, 3)))
    found = run(module_of(config), task.frozen(), {"prompt": jnp.asarray(text)}, KEY)
    return {name: np.asarray(one) for name, one in found.items()}


def batch_of(config: ReinforceDecoder, samples) -> dict[str, np.ndarray]:
    task = task_of(config)
    return task.training_batches(samples, task.judge("abcd", samples)).batches[0]


def loss_of(config: ReinforceDecoder, module, batch):
    task = task_of(config)
    run = nnx.jit(lambda module, frozen, batch: task.loss(module, frozen, batch, KEY, STEP))
    return run(module, task.frozen(), jax.tree.map(jnp.asarray, batch))


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    return rolled_out(replace(CODES, updates=2))


def test_a_rollout_samples_codes_as_the_pipeline_does_with_eta(samples):
    guide = Guide(jnp.asarray(TEXT.repeat(3, axis=0)), jnp.zeros((12, 4)), jnp.zeros(12, bool))
    keys, scale = jax.random.split(KEY, 12), jnp.ones(12)
    run = nnx.jit(lambda module: sample_codes(module, guide, keys, 4, 4, scale, sampler=Ddim(1.0)))
    np.testing.assert_array_equal(samples["codes"].reshape(12, 4), run(module_of(CODES)))
    assert samples["images"].shape == (4, 3, 8, 8, 3)


@pytest.mark.parametrize("config", [CODES, pytest.param(PIXELS, marks=pytest.mark.slow)])
def test_at_ratio_one_the_gradient_is_that_of_reinforce(config):
    config = replace(config, kl=0.0)
    task, module = task_of(config), module_of(config)
    batch = jax.tree.map(jnp.asarray, batch_of(config, rolled_out(config)))
    assert {name: (one.shape, one.dtype) for name, one in batch.items()} == {
        name: (one.shape, one.dtype) for name, one in step_spec(task, 4).items()
    }
    guide = Guide(batch["text"], batch["vector"], batch["has_vector"])

    def surrogate(module):
        return task.loss(module, task.frozen(), batch, KEY, STEP)[0]

    def reinforce(module):
        network = module.network if isinstance(module, TrainedDenoiser) else module
        steps, policy = config.policy.steps, config.policy
        found = steps.step(policy.denoiser(network, guide), batch["before"], batch["steps"])
        return -(batch["advantage"] * found.log_prob(batch["after"])).mean()

    both = nnx.jit(lambda module: (nnx.grad(surrogate)(module), nnx.grad(reinforce)(module)))(module)
    found, expected = map(jax.tree.leaves, both)
    size = max(float(jnp.abs(one).max()) for one in expected)
    assert size > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * size)


def test_the_loss_is_clipped_and_has_the_kl_of_the_means(samples):
    config = replace(CODES, updates=2, kl=0.5, clip=0.1)
    module, batch = module_of(config), batch_of(config, samples)
    plain, sums = loss_of(config, module, batch)
    assert sums["clipped"][0] == 0 and float(sums["kl"][0]) > 0
    np.testing.assert_allclose(plain, -batch["advantage"].mean() + 0.5 * sums["kl"][0] / sums["kl"][1], rtol=1e-3)
    shifted, sums = loss_of(config, module, batch | {"log_prob": batch["log_prob"] - np.float32(0.3)})
    up = batch["advantage"] > 0
    assert sums["clipped"][0] == up.sum()  # the ratio 1.35 is beyond 1.1
    gain = np.where(up, 1.1, np.exp(0.3)) * batch["advantage"]
    np.testing.assert_allclose(shifted - plain, batch["advantage"].mean() - gain.mean(), rtol=1e-2, atol=1e-3)


def test_settings_and_rewards_that_do_not_fit_are_refused():
    for changes, message in (
        ({"eta": 0.0}, r"steps, eta: expected at least 2 and in \(0, 1\]"),
        ({"kl": float("inf")}, r"kl: expected a weight from 0 to 1e\+06, got inf"),
        ({"trained_steps": 4}, "trained_steps: expected 1 to 3, the steps that draw noise, got 4"),
        ({"sees": "embedding"}, r"sees: expected 'caption' without denoise\.clip"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CODES, **changes)
    layout = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
    for config, message in (
        (CODES, r"task\.rewards: expected at least one reward"),
        (replace(PIXELS, rewards={"spread": SpreadCodes()}), r"task\.rewards\.spread: expected a reward of pixels"),
    ):
        with pytest.raises(UserError, match=message):
            config.open(layout)
    with pytest.raises(UserError, match=r"task\.trained_groups, task\.updates: expected at most data\.batch_size 1"):
        task_of(replace(CODES, rewards={"reader": ReadScenes()})).training_spec(1)


@pytest.mark.slow
def test_eight_devices_sample_and_learn_as_one():
    check_eight_devices_are_as_one(task_of(replace(CODES, trained_groups=None, group=4)), TEXT)


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path):
    words = tmp_path / "text.model"
    words.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    captions = Captions(file=str(words)).open(3)
    model = replace(MODEL, text_vocab=captions.tokenizer.vocab_size)
    config = replace(CODES, denoise=replace(CODES.denoise, model=model), updates=2)
    denoise = CodeDenoising(config.denoise, captions, TOKENIZER, None)
    rewards = RewardMixture({"bright": FunctionReward(brightness)})
    task = DecoderReinforcement(denoise, decoder(config), config, rewards, PromptChoice(None, 0, 0.5))
    prompts = PromptList(["a red circle", "a blue square", "a circle"], "prompts", 4)
    layout = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
    found = []
    for name, stops in (("whole", (4,)), ("resumed", (2, 4))):
        for steps in stops:
            trainer = Trainer(steps=steps, schedule=ConstantRate(1e-3), log_every=2, save_every=2)
            train(task, prompts, trainer, layout, tmp_path / name, "# a test\n")
        checkpoints = Checkpoints(tmp_path / name, 1, None)
        spec = CompiledTask(task, trainer, layout).state_spec
        found.append(jax.device_get(checkpoints.restore(4, spec.target()).learned.params))
        checkpoints.close()
    assert found[0].keys() == found[1].keys()
    for name, one in found[0].items():
        np.testing.assert_array_equal(one, found[1][name], err_msg=name)


@pytest.mark.slow
def test_training_raises_the_reward_of_a_decoder():
    config = replace(CODES, trained_groups=None, trained_steps=None, group=16, kl=0.01)
    task, layout = task_of(config), Layout(make_mesh(Mesh(1, 1, 1)), Rules())
    compiled = CompiledTask(task, Trainer(steps=30, schedule=ConstantRate(3e-3), clip_norm=1.0), layout)
    state, rewards, sums = compiled.state_spec.init_sharded(layout, 0), [], None
    for number in range(30):
        drawn = compiled.rollout(state, layout.put_batch({"prompt": TEXT}), number)
        samples = {name: np.asarray(one) for name, one in drawn.items()}
        found = task.judge("abcd", samples)
        rewards.append(found["bright"].mean())
        batch = task.training_batches(samples, found).batches[0]
        state, sums = compiled.step(state, sums, layout.put_batch(batch))
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.02
