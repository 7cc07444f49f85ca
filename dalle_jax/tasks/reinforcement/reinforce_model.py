"""Training of a model folder by a reward that is a Python function, which no config can name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.folder_lock import locked
from dalle_jax.models.model_configs import TextToCodesConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.compiled_network import local_layout
from dalle_jax.pipelines.load.models import read_model_file, stage_folders
from dalle_jax.pipelines.load.text import read_text
from dalle_jax.rewards.reward import Reward, RewardFunction, open_reward
from dalle_jax.storage import Place, place
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.reinforcement.named_prompts import PromptList
from dalle_jax.tasks.reinforcement.reinforce import Reinforce
from dalle_jax.train.loop import train
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer, TrainResult


def reinforce(
    config: Reinforce,
    out: Place,
    rewards: Mapping[str, RewardFunction | Reward],
    prompts: Sequence[str],
    trainer: Trainer,
    batch_size: int,
    layout: Layout | None = None,
) -> TrainResult:
    """Train by rewards and write the transformer to ``out``; a stopped run resumes from its newest checkpoint."""
    layout = local_layout() if layout is None else layout
    if not rewards:
        raise UserError("reward: expected a function of images and prompts, or several by name, got none")
    opened = {name: open_reward(name, one) for name, one in rewards.items()}
    data = PromptList(prompts, "prompts", batch_size)
    with locked(out, "reinforce"):
        task = config.open_with(layout, opened)
        text = f"# The task of dalle_jax.reinforce, which no command reads.\n{render(task.config)}"
        return train(task, data, replace(trainer, initial=config.reference), layout, out, text)


def reinforce_config(folder: Place) -> Reinforce:
    """Return the config with the models and the vocabulary of a demo's folder, or of a transformer's.

    Raise ``UserError`` if the folder holds something else.
    """
    needs = stage_folders(folder).needs
    transformer = needs["transformer"]
    model = read_model_file(place(transformer)).model
    if not isinstance(model, get_args(TextToCodesConfig)):
        raise UserError(
            f"{transformer}: expected the folder of a text-to-image transformer, got one of a "
            f"{type(model).__name__.removesuffix('Config')}"
        )
    vocabulary, files = read_text(place(transformer))
    captions = Captions(file=str(place(transformer) / next(iter(files))), vocabulary=vocabulary)
    generate = GenerateCodes(
        model=cast(TextToCodesConfig, model), captions=captions, image_tokenizer=needs["image_tokenizer"], guidance=1.0
    )
    return Reinforce(generate=generate, reference=transformer)


def default_trainer(steps: int, rate: float, seed: int) -> Trainer:
    """Return the trainer of ``dalle_jax.reinforce``: AdamW at a constant rate after a short warm-up."""
    schedule = ConstantRate(rate, warmup=min(10, steps))
    return Trainer(steps=steps, schedule=schedule, seed=seed, clip_norm=1.0, log_every=5, save_every=20)
