"""The optimizers of optax by their names, for what has no dataclass of its own in ``optimizers.py``."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

from dalle_jax.config.problems import did_you_mean
from dalle_jax.train.optim.weight_decay import Parameters, mask, with_decay

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
"""Those of optax whose update is the learning rate times a direction that gradients and parameters alone decide.

Left out are those that find their own rate (cocob, dog, prodigy, mechanic, momo, dadapt_adamw, schedule_free,
polyak_sgd, rprop), that use it otherwise (fromage, madgrad), or that need more than a gradient (lbfgs, sam, sophia).
"""

Number = bool | int | float


@dataclass(frozen=True)
class Optax:
    """An optimizer of optax by name, with its numeric arguments: ``settings = [("b1", 0.9), ("nesterov", True)]``.

    ``weight_decay`` goes where the optimizer has a place for it (before the trust ratio of LAMB and LARS), else it is
    decoupled. LARS gathers its momentum before the rate, where optax's gathers it after, so a rate that changes acts at
    once. Norms of parameters (LAMB, LARS, NovoGrad) are those of all layers together where layers are scanned.
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
                raise ValueError(f"settings: {self.name} has {has}, got {name!r}{did_you_mean(name, known)}")
            if isinstance(value, bool) != isinstance(known[name], bool):
                expected = "True or False" if isinstance(known[name], bool) else "a number"
                raise ValueError(f"settings: {name} of {self.name} is {expected}, got {value!r}")
            if given.count(name) > 1:
                raise ValueError(f"settings: {name!r} is given more than once")

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """optax's own at a rate of one, without the sign that it gives its updates."""
        make, arguments = NAMES[self.name], dict[str, Any](self.settings)
        legal = inspect.signature(make).parameters
        masked = next((one for one in ("mask", "weight_decay_mask") if one in legal), None)
        if masked is not None:
            arguments |= {"weight_decay": self.weight_decay, masked: mask(parameters)}
        direction = optax.chain(make(learning_rate=1.0, **arguments), optax.scale(-1.0))
        return direction if masked is not None else with_decay(direction, self.weight_decay, parameters)


def numeric_settings(name: str) -> dict[str, Number | None]:
    """The numeric arguments of one of ``NAMES`` with their defaults (None for a momentum that is off)."""
    arguments = inspect.signature(NAMES[name]).parameters.values()
    return {
        one.name: one.default
        for one in arguments
        if one.name != "weight_decay" and (isinstance(one.default, bool | int | float) or one.name == "momentum")
        if not one.name.endswith("mask")
    }
