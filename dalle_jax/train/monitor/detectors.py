"""Detectors of the failures that users report: from the figures that are written anyway to what is wrong and its cure.

Each is given all figures of one moment by their full names, and those that it does not know are no concern of it.
"""

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

HISTORY = 8
"""Earlier values that a figure is compared with."""


@runtime_checkable
class Detector(Protocol):
    """Something that can be wrong with a run."""

    def found(self, step: int, values: Mapping[str, float]) -> str | None:
        """What to say, "" if the figures that it reads are well, None if they are not among these."""
        ...


@dataclass(frozen=True)
class Threshold:
    """A figure that is out of bounds after step ``after``: below ``below`` or above ``above``."""

    figure: str
    message: str
    below: float | None = None
    above: float | None = None
    after: int = 0

    def found(self, step: int, values: Mapping[str, float]) -> str | None:
        """``message`` with {value}."""
        value = values.get(self.figure)
        if value is None or step < self.after:
            return None
        low = self.below is not None and value < self.below
        high = self.above is not None and value > self.above
        return self.message.format(value=value) if low or high else ""


@dataclass
class Explosion:
    """A figure whose name begins with ``figures`` that is ``times`` the median of its earlier values.

    Bad values are left out of that median, and so are zeros: the gradient norm of an objective that has not begun yet,
    such as a discriminator's before ``adversary.start``, is exactly 0.
    """

    figures: str
    times: float
    message: str
    _history: dict[str, deque[float]] = field(default_factory=dict)

    def found(self, step: int, values: Mapping[str, float]) -> str | None:
        """``message`` with {name}, {value} and {usual}."""
        del step
        said = None
        for name in (name for name, value in values.items() if name.startswith(self.figures) and value != 0):
            history = self._history.setdefault(name, deque(maxlen=HISTORY))
            usual = statistics.median(history) if len(history) == HISTORY else None
            said = said or ""
            if usual is not None and values[name] > self.times * usual:
                said = self.message.format(name=name, value=values[name], usual=usual)
            else:
                history.append(values[name])
        return said


@dataclass
class Divergence:
    """Two figures of which ``falling`` has improved by falling while ``other`` got worse, which should have risen.

    The newest of the last ``readings`` is compared with the oldest: ``falling`` must have fallen by ``fell`` of itself
    and ``other`` by ``lost`` of itself.
    """

    falling: str
    other: str
    message: str
    readings: int = 4
    fell: float = 0.01
    lost: float = 0.02
    _pairs: deque[tuple[float, float]] = field(default_factory=deque)

    def found(self, step: int, values: Mapping[str, float]) -> str | None:
        """``message`` with {before}, {now} of ``falling`` and {other_before}, {other_now}."""
        del step
        if self.falling not in values or self.other not in values:
            return None
        now, other_now = values[self.falling], values[self.other]
        self._pairs.append((now, other_now))
        if len(self._pairs) < self.readings:
            return ""
        before, other_before = self._pairs.popleft()
        if before - now < self.fell * abs(before) or other_before - other_now < self.lost * abs(other_before):
            return ""
        return self.message.format(before=before, now=now, other_before=other_before, other_now=other_now)


def detectors(warmup: int = 0) -> tuple[Detector, ...]:
    """All of them, with no memory yet; nothing need be learned before the ``warmup`` of the learning rate is over."""
    return (
        Threshold(
            "train/codebook/usage",
            "CODEBOOK COLLAPSE: only {value:.1%} of the codes are in use; images will be blurred, or one colour. "
            "Revive dead codes sooner, lower the learning rate, or make the codebook smaller.",
            below=0.1,
            after=200,
        ),
        Threshold(
            "images/one_colour",
            "ONE-COLOUR SAMPLES: {value:.0%} of the images drawn are a single colour. If the tokenizer's own "
            "reconstructions are too, train that first (codebook/usage shows whether it collapsed); else train longer, "
            "lower the guidance, or raise the temperature.",
            above=0.4,
            after=200,
        ),
        Threshold(
            "evaluation/guidance_effect",
            "GUIDANCE WITHOUT EFFECT: a caption changes the logits of the codes by {value:.2g} nats on average, so "
            "guided samples are like unguided ones and captions are ignored. See that captions belong to their "
            "images and are not cut or empty, that task.blank_captions is about 0.1, and train longer.",
            below=0.01,
            after=warmup + 300,
        ),
        *(
            Threshold(
                f"train/{name}",
                "STUCK AT UNIFORM: the " + what + " is {value:.1%} of what guessing gives, so nothing has been learned "
                "yet. Raise the learning rate or shorten the warm-up, and see that images and captions are what you "
                "think they are (images/ in the run folder).",
                above=0.99,
                after=warmup + 300,
            )
            for name, what in (("image_nll_of_uniform", "nats per code"), ("loss_of_uniform", "contrastive loss"))
        ),
        Threshold(
            "host/wait_share",
            "DATA STARVATION: {value:.0%} of the time goes to waiting for batches. Store the images smaller and on a "
            "faster disk, give the process more cores, or make the batches cheaper to prepare.",
            above=0.3,
            after=20,
        ),
        Explosion(
            "train/gradient_norm/",
            10.0,
            "GRADIENT NORM EXPLODING: {name} is {value:.3g} and was {usual:.3g}. Lower the learning rate, lengthen the "
            "warm-up, set trainer.clip_norm, or let such updates be skipped with trainer.spikes = @SkipSpikes.",
        ),
        Divergence(
            "evaluation/image_nll",
            "evaluation/clip_score",
            "THE LOSS FALLS AND SO DOES THE CLIP SCORE: nats per code went from {before:.4g} to {now:.4g} while the "
            "CLIP score went from {other_before:.4g} to {other_now:.4g}: codes are guessed better from other codes "
            "and the caption is followed less. Raise the share of blank captions or the guidance, see that captions "
            "belong to their images, and choose checkpoints by the CLIP score.",
        ),
    )
