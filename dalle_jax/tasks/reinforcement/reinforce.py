"""Fine-tuning of a text-to-image transformer by rewards of its own samples (GRPO, arXiv 2402.03300)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_uint8
from dalle_jax.losses.policy_gradient import (
    PolicyTerms,
    clipped_policy_loss,
    policy_terms_in_parts,
)
from dalle_jax.models.code_generator import CachedGenerator, prepare_for_sampling
from dalle_jax.models.dalle import Dalle
from dalle_jax.models.dalle_bart import DalleBart
from dalle_jax.parallel.layout import Layout
from dalle_jax.rewards.reward import Reward, SampledGroups
from dalle_jax.rewards.reward_mixture import AnyReward, RewardMixture
from dalle_jax.rewards.spread_codes import code_spread
from dalle_jax.sampling.autoregressive import CachedDecoder, Settings, guide, sample
from dalle_jax.tasks.batches import text_spec
from dalle_jax.tasks.caption_tokens import loaded
from dalle_jax.tasks.fine_tuning.fine_tuned_generation import (
    REFERENCE,
    FineTunedGeneration,
    abstract_reference,
    load_reference,
)
from dalle_jax.tasks.frozen_networks import image_tokenizer_of
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.reinforcement.named_prompts import NamedPrompts, PromptChoice
from dalle_jax.tasks.reinforcement.prompt_groups import (
    check_group_settings,
    check_weights,
    choose_groups,
    rollout_metrics,
    trained_count,
)
from dalle_jax.train.task import Batch, Frozen, JudgedRollout, MetricSums, Objective, RolloutInputs, Seed


@dataclass(frozen=True)
class Reinforce:
    """Settings of training by rewards, which needs ``trainer.initial``.

    Each rollout samples ``group`` images for each of ``data.batch_size`` prompts. The rewards of a prompt's images are
    normalised to advantages A. For a code with the ratio r of its probability now and in the rollout, the loss is::

        -min(r A, clip(r, 1 - clip, 1 + clip) A) + kl * KL(policy || reference) - entropy * H(policy)

    - ``generate``: the settings with which the transformer was trained. Its ``guidance`` becomes the recommended one.
    - ``reference``: the folder of the trained transformer, which stays frozen; usually that of ``trainer.initial``.
    - ``rewards``: rewards by name, each with its weights. Their sum is the reward of an image.
    - ``trained_groups``: the number of prompts with the largest spread of rewards that are trained on; None is all.
    - ``updates``: the number of steps that share the trained groups of one rollout.
    - ``temperature``, ``guidance``: those of the rollout.
    - ``policy``: "conditional" trains the model without guidance, so that it learns what guidance does in the rollout.
      "guided" trains the guided model, for twice the computation; sample it with the same guidance.
    - ``anchor``: the weight of the nll per code of the data's images, of which ``generate.blank_captions`` have the
      empty caption. It keeps the likelihood of images and the effect of guidance.
    - ``prompts``: prompts without images. A share ``prompt_share`` of the rollout's prompts are drawn from them, the
      others are captions of the data.
    """

    generate: GenerateCodes
    reference: str
    rewards: Mapping[str, AnyReward] = field(default_factory=dict)
    group: int = 12
    trained_groups: int | None = None
    updates: int = 1
    temperature: float = 1.0
    guidance: float = 1.0
    policy: Literal["conditional", "guided"] = "conditional"
    clip: float = 0.2
    kl: float = 0.1
    entropy: float = 0.0
    anchor: float = 0.0
    prompts: NamedPrompts | None = None
    prompt_share: float = 0.5

    def __post_init__(self) -> None:
        check_group_settings(self)
        for name in ("temperature", "guidance", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected more than 0, and finite, got {getattr(self, name)}")
        check_weights(self, "kl", "entropy", "anchor")
        if not 0.0 < self.prompt_share <= 1.0:
            raise ValueError(f"prompt_share: expected a share in (0, 1], got {self.prompt_share}")

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of the data."""
        return self.generate.batch_spec(batch_size)

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "Reinforcement":
        """Load the tokenizers, the frozen transformer and the rewards, and check that they fit."""
        if not self.rewards:
            raise UserError(
                "task.rewards: expected at least one reward, such as task.rewards.reader = @ReadScenes, got none; a "
                "reward written in Python is passed to dalle_jax.reinforce, since a config runs no code"
            )
        return self.open_with(layout, {name: one.open() for name, one in self.rewards.items()}, manifest)

    def open_with(
        self, layout: Layout, rewards: Mapping[str, Reward], manifest: AnyManifest | None = None
    ) -> "Reinforcement":
        """Open the task with other rewards than those of the config."""
        generate = self.generate.open(layout, manifest)
        if generate.image_tokenizer is None:
            raise UserError("task.generate.image_tokenizer: expected the folder of the codes' tokenizer, got None")
        reference = load_reference(self.reference, self.generate.model, layout)
        choice = PromptChoice.open(self.prompts, self.prompt_share)
        config = replace(self, generate=generate.config)
        return Reinforcement(generate, reference, config, RewardMixture(rewards), choice)

    def open_for_plan(self) -> "Reinforcement":
        """Open the task for ``plan``: load the tokenizers if their files exist; the frozen transformer is abstract."""
        reference = abstract_reference(self.generate.model)
        choice = PromptChoice.open(self.prompts, self.prompt_share)
        return Reinforcement(self.generate.open_for_plan(), reference, self, RewardMixture({}), choice)


@dataclass(frozen=True, eq=False)
class Reinforcement(FineTunedGeneration):
    """The task that trains a transformer on its own samples."""

    config: Reinforce
    rewards: RewardMixture
    choice: PromptChoice

    @property
    def recommended_guidance(self) -> float:
        """The scale of the config."""
        return self.generate.config.guidance

    @property
    def updates(self) -> int:
        """The number of steps on the samples of one rollout."""
        return self.config.updates

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return the arrays of ``CodeGeneration.prepare``, of held-out examples."""
        return self.generate.prepare(examples, seeds)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def rollout_inputs(self, examples: ExampleBatch, seeds: Sequence[Seed]) -> RolloutInputs:
        """Return the prompts, their token ids int32 [P T], and with ``anchor`` the arrays of the data's images."""
        prompts = self.choice.choose(examples["caption"], seeds)
        arrays = {"prompt": loaded(self.generate.captions).rows(list(prompts), None)}
        return RolloutInputs(prompts, arrays | (self.prepare(examples, seeds) if self.config.anchor else {}))

    def rollout(self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> dict[str, Array]:
        """Sample codes [P M I] and decode them to images uint8 [P M H W 3].

        With several ``updates`` it also returns the log-probability of each code.
        """
        config, text = self.config, batch["prompt"]
        found = {"text": text}
        if config.anchor:
            found |= {"anchor_text": batch["text"], "anchor_codes": self.generate.codes_of(frozen, batch)}
        prepare_for_sampling(module)
        prompts, group = text.shape[0], config.group
        settings = Settings.of(prompts, temperature=config.temperature, guidance=config.guidance)
        keys = jax.random.split(key, (prompts, group))
        codes = sample(cast(CachedDecoder, module), text, keys, settings, guided=config.guidance != 1.0)  # [P M I]
        pixels = image_tokenizer_of(frozen).decode(codes.reshape(-1, *config.generate.model.grid))
        found |= {"codes": codes, "images": to_uint8(pixels).reshape(prompts, group, *pixels.shape[1:])}
        if config.updates > 1:
            rows = codes.reshape(prompts * group, -1)
            log_prob = self._terms(module, frozen, jnp.repeat(text, group, axis=0), rows).log_prob
            found["log_prob"] = log_prob.reshape(codes.shape)
        return found

    def judge(self, prompts: Sequence[str], samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the parts of the reward for every image."""
        return self.rewards.parts(SampledGroups(tuple(prompts), samples["images"], samples["codes"]))

    def training_batches(self, samples: Mapping[str, np.ndarray], rewards: Mapping[str, np.ndarray]) -> JudgedRollout:
        """Choose the groups of largest spread, and share their images among the batches of the steps."""
        total = self.rewards.total(rewards)  # [P M]
        updates, batches = self.updates, []
        shares = choose_groups(total, self._trained(len(total)), updates)
        for update, (groups, advantages) in enumerate(shares):
            images = {"text": samples["text"][groups].repeat(self.config.group, axis=0)}
            images["codes"] = samples["codes"][groups].reshape(len(images["text"]), -1)
            images["advantage"] = advantages.reshape(-1)
            if updates > 1:
                images["old_log_prob"] = samples["log_prob"][groups].reshape(images["codes"].shape)
            own = (
                {name: samples[f"anchor_{name}"][update::updates] for name in ("text", "codes")}
                if self.config.anchor
                else {}
            )
            batches.append(_joined(images, own, self.config.anchor))
        different = code_spread(samples["codes"])  # [P M]
        metrics = rollout_metrics(total, rewards)
        return JudgedRollout(batches, metrics | {"code_spread": (float(different.sum()), float(total.size))})

    def training_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of a step's batch."""
        model, updates = self.config.generate.model, self.updates
        images = self._trained(batch_size) // updates * self.config.group
        rows = images + (batch_size // updates if self.config.anchor else 0)
        codes = model.grid[0] * model.grid[1]
        found = {"text": text_spec(rows, model.text_length), "codes": text_spec(rows, codes)}
        found |= {name: jax.ShapeDtypeStruct((rows,), jnp.float32) for name in ("advantage", "policy", "anchor")}
        return found | ({"old_log_prob": jax.ShapeDtypeStruct((rows, codes), jnp.float32)} if updates > 1 else {})

    def _trained(self, prompts: int) -> int:
        """Return the number of trained groups. Raise ``UserError`` if there are not as many prompts."""
        return trained_count(self.config, prompts, shares_prompts=bool(self.config.anchor))

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the clipped policy gradient, with its KL, entropy and anchor."""
        return (Objective("reinforce", nnx.Param, self.loss),)

    def loss(
        self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the loss of sampled images, and of the data's images among them.

        The rows of ``policy`` and ``anchor`` have the weights with which the mean over rows is the weighted sum.
        """
        del step
        config, text, policy, anchor = self.config, batch["text"], batch["policy"], batch["anchor"]
        blank = jax.random.bernoulli(key, config.generate.blank_captions, anchor.shape) & (anchor > 0)
        text = jnp.where(blank[:, None], module.empty(text), text)
        terms = self._terms(module, frozen, text, batch["codes"])
        old = batch.get("old_log_prob", jax.lax.stop_gradient(terms.log_prob))
        clipped, stopped = clipped_policy_loss(terms.log_prob, old, batch["advantage"], config.clip)
        sampled = (clipped + config.kl * terms.kl - config.entropy * terms.entropy).mean(axis=-1)  # [B]
        nll = -terms.log_prob.mean(axis=-1)
        loss = jnp.mean(policy * sampled + anchor * nll)
        is_sampled = (policy > 0).astype(jnp.float32)
        count = is_sampled.sum()

        def over_samples(values: Array) -> tuple[Array, Array]:
            return jnp.sum(values.mean(axis=-1) * is_sampled), count

        kept = (over_samples(terms.entropy)[0], over_samples(terms.reference_entropy)[0])
        sums: MetricSums = {
            "loss": (loss, jnp.ones(())),
            "kl": over_samples(terms.kl),
            "kl_infinite": over_samples(terms.kl_infinite),
            "entropy": over_samples(terms.entropy),
            "entropy_kept": kept,
            "clipped": over_samples(stopped),
        }
        if config.anchor:
            sums["anchor_nll"] = (jnp.sum(nll * (1.0 - is_sampled)), jnp.sum(1.0 - is_sampled))
        return loss, sums

    def _terms(self, module: CachedGenerator, frozen: Frozen, text: Array, codes: Array) -> PolicyTerms:
        """Return the terms of the policy and of the reference at each code, by teacher forcing."""
        generate = self.config.generate
        scale = self.config.guidance if self.config.policy == "guided" else 1.0
        networks = (module, cast(CachedGenerator, frozen[REFERENCE]))
        outputs = [_outputs(one, text, codes, guided=scale != 1.0) for one in networks]
        logits = [_logits(one, scale, generate.model.codebook_size) for one in networks]
        return policy_terms_in_parts(logits[0], outputs[0], logits[1], outputs[1], codes, generate.loss_parts)


def _outputs(network: CachedGenerator, text: Array, codes: Array, *, guided: bool) -> Float[Array, "B I s D"]:
    """Return the outputs with the caption, and if ``guided`` those with the empty caption as a second entry."""
    if not guided:
        return network.outputs(text, codes).image[:, :, None]
    texts = jnp.concatenate([text, jnp.broadcast_to(network.empty(text), text.shape)])
    both = network.outputs(texts, jnp.concatenate([codes, codes])).image
    return jnp.stack(jnp.split(both, 2), axis=2)


def _logits(
    network: CachedGenerator, scale: float, size: int
) -> Callable[[Float[Array, "B l s D"]], Float[Array, "B l K"]]:
    """Return the function from ``_outputs`` to the logits of the ``size`` codes, guided if there are two entries."""
    predict = network.codes.predictor()

    def logits(outputs: Float[Array, "B l s D"]) -> Float[Array, "B l K"]:
        found = [predict(outputs[:, :, index])[..., :size] for index in range(outputs.shape[2])]
        if len(found) == 1:
            return found[0]
        with_text, without = found
        return guide(with_text, without, jnp.full((len(outputs), 1), scale))

    return logits


def _joined(sampled: dict[str, np.ndarray], images: dict[str, np.ndarray], weight: float) -> dict[str, np.ndarray]:
    """Append the data's images to the sampled ones, with the weights of the mean over rows (``Reinforcement.loss``)."""
    count = len(sampled["text"])
    extra = len(images["text"]) if images else 0
    rows = count + extra
    joined = {
        name: np.concatenate([values, images[name]])
        if name in images
        else np.concatenate([values, np.zeros((extra, *values.shape[1:]), values.dtype)])
        for name, values in sampled.items()
    }
    is_sampled = np.arange(rows) < count
    joined["policy"] = np.where(is_sampled, rows / count, 0.0).astype(np.float32)
    joined["anchor"] = np.where(is_sampled, 0.0, weight * rows / max(extra, 1)).astype(np.float32)
    return joined
