"""DALL·E and its family in JAX: image tokenizers, text-to-image transformers, CLIP, sampling and training."""

import os
from typing import TYPE_CHECKING, Literal

from dalle_jax.config.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dalle_jax.parallel.layout import Layout
    from dalle_jax.pipelines.image_codec import ImageCodec
    from dalle_jax.pipelines.load.pipeline import AnyPipeline
    from dalle_jax.rewards.reward import Reward, RewardFunction
    from dalle_jax.train.trainer import TrainResult

__version__ = "0.1.0"
__all__ = ["UserError", "load", "load_image_tokenizer", "reinforce"]


def load(
    folder: str | os.PathLike[str],
    *,
    image_tokenizer: str | os.PathLike[str] | None = None,
    clip: str | os.PathLike[str] | None = None,
    batch: int = 64,
    layout: "Layout | None" = None,
    sees: str | None = None,
    steps: int | None = None,
    consistency_decoder: str | os.PathLike[str] | None = None,
    guide_clip: str | os.PathLike[str] | None = None,
    clip_scale: float | None = None,
    weights: Literal["int8"] | None = None,
    cache: Literal["bfloat16"] | None = None,
    attention: Literal["xla", "pallas"] | None = None,
    forecast: str | os.PathLike[str] | None = None,
) -> "AnyPipeline":
    """Load the pipeline of a model folder, as ``sample --model`` does (docs/python.md).

    ``image_tokenizer`` and ``clip`` are folders that replace the model's own, or supply missing ones. ``batch`` is the
    largest number of images generated in one call. ``layout`` shards networks and images over a mesh; by default one
    device holds everything. ``sees`` and ``steps`` are the inputs ("embedding", "caption" or "both") and the steps of
    an unCLIP's decoder. ``consistency_decoder`` is the folder of one that decodes codes or latents to pixels.
    ``guide_clip`` is that of a CLIP trained on noised images, which guides GLIDE by ``clip_scale``. ``weights`` and
    ``cache`` are smaller forms of a transformer's matrices, and of its cached keys and values. ``attention`` computes
    that of images in slots; by default a kernel on a TPU, and XLA elsewhere. ``forecast`` is the folder of its
    forecasting heads, which guess codes in parallel decoding.

    Raises ``UserError`` if a folder holds something else.
    """
    from dalle_jax import storage
    from dalle_jax.models.code_generator import Reduced
    from dalle_jax.pipelines.load.glide_pipeline import guiding_clip
    from dalle_jax.pipelines.load.pipeline import load_pipeline

    given = (image_tokenizer, clip, consistency_decoder, forecast)
    tokenizer, ranker, decoder, heads = (None if one is None else storage.reachable(one) for one in given)
    guide = guiding_clip(None if guide_clip is None else storage.reachable(guide_clip), clip_scale)
    return load_pipeline(
        storage.reachable(folder), tokenizer, ranker, batch, layout, sees=sees, steps=steps,
        consistency_decoder=decoder, guide=guide, reduced=Reduced(weights, cache, attention), forecast=heads,
    )  # fmt: skip


def load_image_tokenizer(folder: str | os.PathLike[str], *, batch: int = 64) -> "ImageCodec":
    """Load the image tokenizer of a folder, which encodes and decodes at most ``batch`` images in one call."""
    from dalle_jax import storage
    from dalle_jax.pipelines.image_codec import ImageCodec
    from dalle_jax.pipelines.load.models import load_image_tokenizer

    return ImageCodec(load_image_tokenizer(storage.reachable(folder)), batch=batch)


def reinforce(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    reward: "RewardFunction | Reward | Mapping[str, RewardFunction | Reward]",
    prompts: "Sequence[str]",
    steps: int = 100,
    rate: float = 2e-4,
    prompts_per_step: int = 16,
    group: int = 12,
    trained_groups: int | None = None,
    kl: float = 0.1,
    entropy: float = 0.0,
    seed: int = 0,
    layout: "Layout | None" = None,
) -> "TrainResult":
    """Train the transformer of a model folder by rewards of its own samples (docs/rewards.md).

    ``reward(images, prompts)`` gets uint8 images [B H W 3] and the prompt of each, and returns a number for each. It
    may be a reward of ``dalle_jax.rewards``, or several by name. The trained model is written to ``out``, from whose
    newest checkpoint a stopped run resumes. The other arguments are fields of ``Reinforce`` and of the trainer.
    """
    from collections.abc import Mapping
    from dataclasses import replace

    from dalle_jax import storage
    from dalle_jax.tasks.reinforcement.reinforce_model import default_trainer, reinforce_config
    from dalle_jax.tasks.reinforcement.reinforce_model import reinforce as train_by_rewards

    config = reinforce_config(storage.reachable(model))
    config = replace(config, group=group, trained_groups=trained_groups, kl=kl, entropy=entropy)
    rewards = reward if isinstance(reward, Mapping) else {"reward": reward}
    trainer = default_trainer(steps, rate, seed)
    return train_by_rewards(config, storage.reachable(out), rewards, prompts, trainer, prompts_per_step, layout)
