"""The groups of images of a rollout's prompts: their settings, the choice of the trained ones, and their metrics."""

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.losses.policy_gradient import SMALLEST_SPREAD, group_advantages, widest_groups

LARGEST_WEIGHT = 1e6
"""The largest weight of a term of the loss, beyond which its gradient could overflow in float32."""


@runtime_checkable
class GroupSettings(Protocol):
    """The settings of groups, which ``Reinforce`` and ``ReinforceDecoder`` share."""

    @property
    def group(self) -> int:
        """The number of images of a prompt."""
        ...

    @property
    def trained_groups(self) -> int | None:
        """The number of prompts that are trained on; None is all."""
        ...

    @property
    def updates(self) -> int:
        """The number of steps of the optimizer that share the trained groups."""
        ...


def check_group_settings(config: GroupSettings) -> None:
    """Raise ``ValueError`` if a group has a single image, or the steps cannot share the trained groups."""
    if config.group < 2:
        raise ValueError(
            f"group: expected at least 2 images of a prompt, whose rewards are compared, got {config.group}"
        )
    if config.updates < 1 or (config.trained_groups is not None and config.trained_groups % config.updates):
        raise ValueError(
            f"updates: expected at least 1 and a divisor of trained_groups {config.trained_groups}, "
            f"got {config.updates}"
        )


def check_weights(config: object, *names: str) -> None:
    """Raise ``ValueError`` if a field of ``config`` is not a weight from 0 to ``LARGEST_WEIGHT``."""
    for name in names:
        if not 0 <= getattr(config, name) <= LARGEST_WEIGHT:
            raise ValueError(f"{name}: expected a weight from 0 to {LARGEST_WEIGHT:g}, got {getattr(config, name)}")


def trained_count(config: GroupSettings, prompts: int, *, shares_prompts: bool = False) -> int:
    """Return the number of trained groups of a rollout.

    Raise ``UserError`` if ``prompts`` are too few, or if the steps cannot share the groups. With ``shares_prompts``,
    they share all prompts too.
    """
    count = prompts if config.trained_groups is None else config.trained_groups
    if not 1 <= count <= prompts or count % config.updates or (shares_prompts and prompts % config.updates):
        divided = "both" if shares_prompts else "their number"
        raise UserError(
            f"task.trained_groups, task.updates: expected at most data.batch_size {prompts} groups, and a divisor of "
            f"{divided}, got {count} and {config.updates}"
        )
    return count


def choose_groups(
    rewards: Float[np.ndarray, "P M"], count: int, updates: int
) -> Iterator[tuple[Int[np.ndarray, " g"], Float[np.ndarray, "g M"]]]:
    """Yield the groups of each of ``updates`` steps, and their advantages in float32.

    The ``count`` groups of largest spread are dealt out to the steps in turn.
    """
    chosen = widest_groups(rewards, count)
    advantages = group_advantages(rewards[chosen]).astype(np.float32)
    for update in range(updates):
        yield chosen[update::updates], advantages[update::updates]


def rollout_metrics(
    total: Float[np.ndarray, "P M"], parts: Mapping[str, Float[np.ndarray, "P M"]]
) -> dict[str, tuple[float, float]]:
    """Return the sum and the count of the rewards, of their spread in a group, and of the groups that differ."""
    spread, prompts = total.std(axis=1), float(len(total))
    sums = {f"reward/{name}": (float(values.sum()), float(values.size)) for name, values in parts.items()}
    return sums | {
        "reward": (float(total.sum()), float(total.size)),
        "reward_spread": (float(spread.sum()), prompts),
        "live_groups": (float((spread > SMALLEST_SPREAD).sum()), prompts),
    }
