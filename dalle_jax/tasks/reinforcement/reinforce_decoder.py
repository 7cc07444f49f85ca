"""Fine-tuning of a diffusion decoder by rewards of its own samples (DDPO, arXiv 2305.13301; Flow-GRPO, 2505.05470)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.losses.policy_gradient import clipped_policy_loss
from dalle_jax.models.clip import Clip
from dalle_jax.models.code_denoiser import CodeDenoiser, Guide
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.embedding_pipeline import Sees
from dalle_jax.rewards.reward import Reward, SampledGroups
from dalle_jax.rewards.reward_mixture import AnyReward, RewardMixture
from dalle_jax.rewards.spread_codes import SpreadCodes
from dalle_jax.tasks.batches import text_spec
from dalle_jax.tasks.caption_tokens import CaptionTokenizer, loaded
from dalle_jax.tasks.denoise_codes import DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages
from dalle_jax.tasks.fine_tuning.fine_tuned_generation import REFERENCE
from dalle_jax.tasks.frozen_networks import CLIP
from dalle_jax.tasks.image_denoising import TrainedDenoiser
from dalle_jax.tasks.reinforcement.decoder_policies import DecoderPolicy, decoder_of, policy_of
from dalle_jax.tasks.reinforcement.named_prompts import NamedPrompts, PromptChoice
from dalle_jax.tasks.reinforcement.prompt_groups import (
    check_group_settings,
    check_weights,
    choose_groups,
    rollout_metrics,
    trained_count,
)
from dalle_jax.train.task import (
    Batch,
    Frozen,
    JudgedRollout,
    MetricSums,
    Objective,
    ReadsCaptions,
    RolloutInputs,
    Seed,
    Task,
)

CHOICE = 2**31
"""The number that makes the key of a sample's trained steps from its own key; the numbers of its noise are smaller."""

DecoderModule: TypeAlias = CodeDenoiser | TrainedDenoiser


@dataclass(frozen=True)
class ReinforceDecoder:
    """Settings of a decoder's training by rewards, which needs ``trainer.initial``.

    Each rollout samples ``group`` images for each of ``data.batch_size`` prompts, in ``steps`` steps of DDIM with
    ``eta``. The rewards of a prompt's images are normalised to advantages A. For a step from x to x' with the ratio r
    of the density of x' now and in the rollout, the loss is::

        -min(r A, clip(r, 1 - clip, 1 + clip) A) + kl * |mean - mean of the reference|^2 / (2 s^2)

    The second term is the KL of the step in nats, summed over the values of x.

    - ``denoise``: the settings with which the decoder was trained.
    - ``reference``: the folder of the trained decoder, which stays frozen; usually that of ``trainer.initial``.
    - ``rewards``, ``trained_groups``, ``updates``, ``prompts``, ``prompt_share``: as in ``Reinforce``.
    - ``trained_steps``: the number of random steps of each image that are trained on; None is all that draw noise.
    - ``guidance``: that of the rollout and of the trained policy; other scales than 1 double the computation.
    - ``sees``: the inputs in the rollout: "caption", or the CLIP "embedding" of the data's image, or "both".
    """

    denoise: DenoiseCodes | DenoiseImages
    reference: str
    rewards: Mapping[str, AnyReward] = field(default_factory=dict)
    group: int = 8
    trained_groups: int | None = None
    updates: int = 1
    steps: int = 10
    trained_steps: int | None = None
    eta: float = 1.0
    guidance: float = 1.0
    sees: Sees = "caption"
    clip: float = 0.2
    kl: float = 0.1
    prompts: NamedPrompts | None = None
    prompt_share: float = 0.5

    def __post_init__(self) -> None:
        check_group_settings(self)
        if self.steps < 2 or not 0 < self.eta <= 1:
            raise ValueError(f"steps, eta: expected at least 2 and in (0, 1], got {self.steps} and {self.eta}")
        for name in ("guidance", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected more than 0, and finite, got {getattr(self, name)}")
        check_weights(self, "kl")
        if not 0.0 < self.prompt_share <= 1.0:
            raise ValueError(f"prompt_share: expected a share in (0, 1], got {self.prompt_share}")
        if isinstance(self.denoise, DenoiseImages) and self.denoise.model.inpaints:
            raise ValueError(
                "denoise.model.unet.extra_channels: expected 0, since rollouts have no known pixels, got 4"
            )
        if self.sees != "caption" and (self.denoise.clip is None or self.prompts is not None):
            raise ValueError(
                "sees: expected 'caption' without denoise.clip, and with prompts that have no images, "
                f"got {self.sees!r}"
            )
        random = len(self.policy.steps.random_steps)
        if self.trained_steps is not None and not 1 <= self.trained_steps <= random:
            raise ValueError(
                f"trained_steps: expected 1 to {random}, the steps that draw noise, got {self.trained_steps}"
            )

    @property
    def policy(self) -> DecoderPolicy:
        """The decoder's steps in a rollout."""
        return policy_of(self.denoise, steps=self.steps, eta=self.eta, guidance=self.guidance)

    @property
    def steps_of_image(self) -> int:
        """The number of steps of an image that are trained on."""
        return self.trained_steps or len(self.policy.steps.random_steps)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of the data."""
        return self.denoise.batch_spec(batch_size)

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "DecoderReinforcement":
        """Load the tokenizers, the frozen networks and the rewards, and check that they fit."""
        if not self.rewards:
            raise UserError(
                "task.rewards: expected at least one reward, such as task.rewards.reader = @ReadScenes, got none"
            )
        spread = [name for name, one in self.rewards.items() if isinstance(one, SpreadCodes)]
        if spread and not self.policy.has_codes:
            raise UserError(f"task.rewards.{spread[0]}: expected a reward of pixels, got one of codes (@SpreadCodes)")
        return self.open_with(layout, {name: one.open() for name, one in self.rewards.items()}, manifest)

    def open_with(
        self, layout: Layout, rewards: Mapping[str, Reward], manifest: AnyManifest | None = None
    ) -> "DecoderReinforcement":
        """Open the task with other rewards than those of the config."""
        denoise = self.denoise.open(layout, manifest)
        reference = self.policy.load(self.reference, layout)
        choice = PromptChoice.open(self.prompts, self.prompt_share)
        return DecoderReinforcement(denoise, reference, self, RewardMixture(rewards), choice)

    def open_for_plan(self) -> "DecoderReinforcement":
        """Open the task for ``plan``: load the tokenizers if their files exist; the frozen decoder is abstract."""
        reference = nnx.eval_shape(lambda: self.policy.build(nnx.Rngs(0)))
        choice = PromptChoice.open(self.prompts, self.prompt_share)
        return DecoderReinforcement(self.denoise.open_for_plan(), reference, self, RewardMixture({}), choice)


@runtime_checkable
class DecoderTask(Task[Any], ReadsCaptions, Protocol):
    """The task that trained a decoder, such as ``CodeDenoising`` and ``ImageDecoding``."""

    @property
    def captions(self) -> CaptionTokenizer | None:
        """The text tokenizer, which only ``plan`` may lack."""
        ...


@dataclass(frozen=True, eq=False)
class DecoderReinforcement:
    """The task that trains a diffusion decoder on its own samples. Evaluation and images are those of ``denoise``."""

    denoise: DecoderTask
    reference: nnx.Module
    config: ReinforceDecoder
    rewards: RewardMixture
    choice: PromptChoice

    @property
    def updates(self) -> int:
        """The number of steps of the optimizer on the samples of one rollout."""
        return self.config.updates

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return the arrays of ``denoise``, of held-out examples."""
        return self.denoise.prepare(examples, seeds)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> DecoderModule:
        """Create the module that ``denoise`` trains."""
        return self.denoise.init(rngs)

    def frozen(self) -> Frozen:
        """Return the frozen networks of ``denoise``, and the decoder from which training starts."""
        return {**self.denoise.frozen(), REFERENCE: self.reference}

    def rollout_inputs(self, examples: ExampleBatch, seeds: Sequence[Seed]) -> RolloutInputs:
        """Return the prompts, their token ids ``prompt`` int32 [P T], and ``pixels`` if embeddings are seen."""
        prompts = self.choice.choose(examples["caption"], seeds)
        arrays = {"prompt": loaded(self.denoise.captions).rows(list(prompts), None)}
        if self.config.sees != "caption":
            arrays["pixels"] = self.prepare(examples, seeds)["pixels"]
        return RolloutInputs(prompts, arrays)

    def rollout(self, module: DecoderModule, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> dict[str, Array]:
        """Sample images uint8 [P M H W 3] and codes [P M I], with the x before and after the trained steps [P M k …].

        A sample depends on its own key, so it is the same on any number of devices.
        """
        config, policy, network = self.config, self.config.policy, decoder_of(module)
        prompts, group, count = batch["prompt"].shape[0], config.group, config.steps_of_image
        guide = self._guide(frozen, batch)  # [P]
        rows: Guide = jax.tree.map(lambda one: jnp.repeat(one, group, axis=0), guide)  # [P*M]
        keys = jax.random.split(key, prompts * group)
        steps = policy.steps
        chosen = steps.choose(jax.vmap(lambda one: jax.random.fold_in(one, jnp.uint32(CHOICE)))(keys), count)
        start = initial_noise(keys, policy.shape)
        path = steps.sample(policy.denoiser(network, rows), start, keys, chosen)
        images = policy.decode(network, frozen, path.last, rows)
        found = {
            "images": to_uint8(images.pixels), "codes": images.codes, "before": path.before, "after": path.after,
            "steps": chosen,
        }  # fmt: skip
        if config.updates > 1:
            each = [
                steps.step(policy.denoiser(network, rows), path.before[:, one], chosen[:, one]) for one in range(count)
            ]  # one step at a time, since all together may not fit in memory
            found["log_prob"] = jnp.stack(
                [gaussian.log_prob(path.after[:, one]) for one, gaussian in enumerate(each)], axis=1
            )
        grouped = {name: one.reshape(prompts, group, *one.shape[1:]) for name, one in found.items()}
        return grouped | {"text": guide.text, "vector": guide.clip, "has_vector": guide.has_clip}

    def _guide(self, frozen: Frozen, batch: Batch) -> Guide:
        """Return the inputs of each prompt that the rollout sees."""
        text, sees = batch["prompt"], self.config.sees
        rows = text.shape[0]
        vectors = jnp.zeros((rows, self.config.denoise.model.embed_width))
        if sees != "caption":
            clip = cast(Clip, frozen[CLIP])
            side = clip.config.image_size
            pixels = to_float(batch["pixels"])
            vectors = clip.encode_image(jax.image.resize(pixels, (rows, side, side, 3), "cubic", antialias=True))
        guide = Guide(text, vectors, jnp.full(rows, sees != "caption"))
        return guide.without(jnp.full(rows, sees == "embedding"), jnp.zeros(rows, bool))

    def judge(self, prompts: Sequence[str], samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the parts of the reward for every image."""
        return self.rewards.parts(SampledGroups(tuple(prompts), samples["images"], samples["codes"]))

    def training_batches(self, samples: Mapping[str, np.ndarray], rewards: Mapping[str, np.ndarray]) -> JudgedRollout:
        """Choose the groups of largest spread, and share their steps among the batches of the optimizer's steps."""
        total = self.rewards.total(rewards)  # [P M]
        steps, updates, batches = self.config.steps_of_image, self.updates, []
        for groups, advantages in choose_groups(total, self._trained(len(total)), updates):
            count = self.config.group * steps
            batch = {name: samples[name][groups].repeat(count, axis=0) for name in ("text", "vector", "has_vector")}
            rows = len(batch["text"])
            for name in ("before", "after", "steps", *(("log_prob",) if updates > 1 else ())):
                batch[name] = samples[name][groups].reshape(rows, *samples[name].shape[3:])
            batch["advantage"] = advantages.repeat(steps, axis=1).reshape(-1)
            batches.append(batch)
        pixel_spread = (samples["images"] / 255.0).std(axis=1).mean()
        return JudgedRollout(batches, rollout_metrics(total, rewards) | {"image_spread": (float(pixel_spread), 1.0)})

    def training_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of a step's batch: a row is one step of one image."""
        model, config = self.config.denoise.model, self.config
        rows = self._trained(batch_size) // self.updates * config.group * config.steps_of_image
        x = jax.ShapeDtypeStruct((rows, *config.policy.shape), jnp.float32)
        number = jax.ShapeDtypeStruct((rows,), jnp.float32)
        found = {
            "text": text_spec(rows, model.text_length),
            "vector": jax.ShapeDtypeStruct((rows, model.embed_width), jnp.float32),
            "has_vector": jax.ShapeDtypeStruct((rows,), jnp.bool_),
            "before": x,
            "after": x,
            "steps": jax.ShapeDtypeStruct((rows,), jnp.int32),
            "advantage": number,
        }
        return found | ({"log_prob": number} if self.updates > 1 else {})

    def _trained(self, prompts: int) -> int:
        """Return the number of trained groups. Raise ``UserError`` if there are not as many prompts."""
        return trained_count(self.config, prompts)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the clipped policy gradient with its KL."""
        return (Objective("reinforce", nnx.Param, self.loss),)

    def loss(
        self, module: DecoderModule, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the mean loss of the steps in the batch."""
        del key, step
        config, policy = self.config, self.config.policy
        guide = Guide(batch["text"], batch["vector"], batch["has_vector"])
        found = policy.steps.step(policy.denoiser(decoder_of(module), guide), batch["before"], batch["steps"])
        fixed = policy.steps.step(policy.denoiser(frozen[REFERENCE], guide), batch["before"], batch["steps"])
        log_prob = found.log_prob(batch["after"])  # [B]
        old = batch.get("log_prob", jax.lax.stop_gradient(log_prob))
        clipped, stopped = clipped_policy_loss(log_prob[:, None], old[:, None], batch["advantage"], config.clip)
        kl = found.kl(jax.lax.stop_gradient(fixed.mean))
        loss = jnp.mean(clipped[:, 0] + config.kl * kl)
        count = jnp.asarray(kl.size, jnp.float32)
        return loss, {
            "loss": (loss, jnp.ones(())),
            "kl": (kl.sum(), count),
            "clipped": (stopped.sum(), count),
        }

    def evaluate(self, module: DecoderModule, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the metrics of ``denoise`` on held-out examples."""
        return self.denoise.evaluate(module, frozen, batch, key)

    def images(
        self, module: DecoderModule, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"] | None:
        """Return the images of ``denoise``."""
        return self.denoise.images(module, frozen, batch, key)

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        return self.denoise.cut_captions()

    def model_files(self) -> dict[str, bytes]:
        """Return the files of ``denoise``: the trained decoder takes the place of its start."""
        return self.denoise.model_files()
