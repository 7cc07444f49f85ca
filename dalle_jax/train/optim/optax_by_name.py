"""Optimizers of optax that have no dataclass in ``optimizers.py``, chosen by their name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

from dalle_jax.config.problems import did_you_mean
from dalle_jax.train.optim.parameter_masks import Parameters, add_weight_decay, weight_decay_mask

NAMES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "acprop": optax.contrib.acprop,
    "adabelief": optax.adabelief,
    "adadelta": optax.adadelta,
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adan": optax.adan,
    "ademamix": optax.contrib.ademamix,
    "adopt": optax.contrib.adopt,
    "amsgrad": optax.amsgrad,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lion": optax.lion,
    "nadam": optax.nadam,
    "novograd": optax.novograd,
    "optimistic_adam": optax.optimistic_adam_v2,
    "radam": optax.radam,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
    "sign_sgd": optax.sign_sgd,
    "signum": optax.signum,
    "simplified_ademamix": optax.contrib.simplified_ademamix,
    "sm3": optax.sm3,
    "yogi": optax.yogi,
}
"""Optimizers whose update is the learning rate times a direction that depends only on gradients and parameters.

Excluded are optimizers that find their own rate (cocob, dog, prodigy, mechanic, momo, dadapt_adamw, schedule_free,
polyak_sgd, rprop), that use it differently (fromage, madgrad), or that need more than a gradient (lbfgs, sam, sophia).
"""

Number = bool | int | float


@dataclass(frozen=True)
class Optax:
    """An optimizer of optax by name, with its numeric arguments: ``settings = [("b1", 0.9), ("nesterov", True)]``.

    ``weight_decay`` is passed to the optimizer if it takes one (LAMB and LARS apply it before the trust ratio), else it
    is decoupled. LARS accumulates its momentum before the rate is applied, while optax does so after, so a new rate
    acts at once. If layers are scanned, parameter norms (LAMB, LARS, NovoGrad) are over all layers together.
    """

    name: str
    settings: tuple[tuple[str, bool | int | float], ...] = ()
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(
                f"name: expected one of {', '.join(NAMES)}, got {self.name!r}{did_you_mean(self.name, NAMES)}"
            )
        known, given = numeric_settings(self.name), [name for name, _ in self.settings]
        for name, value in self.settings:
            if name not in known:
                has = ", ".join(known) or "none"
                raise ValueError(
                    f"settings: expected arguments of {self.name} ({has}), got {name!r}{did_you_mean(name, known)}"
                )
            if isinstance(value, bool) != isinstance(known[name], bool):
                expected = "True or False" if isinstance(known[name], bool) else "a number"
                raise ValueError(f"settings: expected {expected} for {name} of {self.name}, got {value!r}")
            if given.count(name) > 1:
                raise ValueError(f"settings: expected each name once, got {name!r} more than once")

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Return the optax optimizer at a rate of 1, with the sign of its updates flipped to a descent direction."""
        make, arguments = NAMES[self.name], dict[str, Any](self.settings)
        legal = inspect.signature(make).parameters
        masked = next((one for one in ("mask", "weight_decay_mask") if one in legal), None)
        if masked is not None:
            arguments |= {"weight_decay": self.weight_decay, masked: weight_decay_mask(parameters)}
        direction = optax.chain(make(learning_rate=1.0, **arguments), optax.scale(-1.0))
        return direction if masked is not None else add_weight_decay(direction, self.weight_decay, parameters)


def numeric_settings(name: str) -> dict[str, Number | None]:
    """Return the numeric arguments of an optimizer in ``NAMES`` with their defaults (None for no momentum)."""
    arguments = inspect.signature(NAMES[name]).parameters.values()
    return {
        one.name: one.default
        for one in arguments
        if one.name != "weight_decay" and (isinstance(one.default, bool | int | float) or one.name == "momentum")
        if not one.name.endswith("mask")
    }
