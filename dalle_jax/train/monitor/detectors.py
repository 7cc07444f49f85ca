"""Detectors of common failures in the metrics of a run, and the alerts that they raise.

A detector is given all metrics written at one step, by their full names ("train/loss"), and ignores the others.
"""

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from dalle_jax.config.errors import UserError

HISTORY = 8
"""The number of earlier values that a metric is compared with."""


@runtime_checkable
class Detector(Protocol):
    """A check for one failure of a run."""

    def check(self, step: int, values: Mapping[str, float]) -> str | None:
        """Return a warning, an empty string if the metrics are fine, or None if they are absent."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Detector of a metric that is below ``below`` or above ``above`` after step ``after``."""

    metric: str
    message: str
    below: float | None = None
    above: float | None = None
    after: int = 0

    def check(self, step: int, values: Mapping[str, float]) -> str | None:
        """Return ``message``, with {value} filled in, if the metric is outside its limits.

        Otherwise the result is as in ``Detector.check``.
        """
        value = values.get(self.metric)
        if value is None or step < self.after:
            return None
        low = self.below is not None and value < self.below
        high = self.above is not None and value > self.above
        return self.message.format(value=value) if low or high else ""


@dataclass
class Explosion:
    """Detector of a metric that exceeds ``times`` the median of its earlier values.

    It checks every metric whose name begins with ``prefix``.

    The median excludes values that raised an alert, and zeros. A gradient norm is exactly 0 before its objective
    starts, such as a discriminator's before ``adversary.start``.
    """

    prefix: str
    times: float
    message: str
    _history: dict[str, deque[float]] = field(default_factory=dict)

    def check(self, step: int, values: Mapping[str, float]) -> str | None:
        """Return ``message``, with {name}, {value} and {usual} filled in, if a metric is too large.

        Otherwise the result is as in ``Detector.check``.
        """
        del step
        message = None
        for name in (name for name, value in values.items() if name.startswith(self.prefix) and value != 0):
            history = self._history.setdefault(name, deque(maxlen=HISTORY))
            usual = statistics.median(history) if len(history) == HISTORY else None
            message = message or ""
            if usual is not None and values[name] > self.times * usual:
                message = self.message.format(name=name, value=values[name], usual=usual)
            else:
                history.append(values[name])
        return message


@dataclass
class Divergence:
    """Detector of a loss (``falling``) that falls while a score (``other``), which should rise, falls too.

    The newest of the last ``readings`` values is compared with the oldest. It warns if ``falling`` fell by the share
    ``fell`` of its oldest value, and ``other`` by the share ``lost``.
    """

    falling: str
    other: str
    message: str
    readings: int = 4
    fell: float = 0.01
    lost: float = 0.02
    _pairs: deque[tuple[float, float]] = field(default_factory=deque)

    def check(self, step: int, values: Mapping[str, float]) -> str | None:
        """Return ``message`` if both metrics fell, else a result as in ``Detector.check``.

        {before} and {now} are the values of ``falling``; {other_before} and {other_now} are those of ``other``.
        """
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


@dataclass
class Hacking:
    """Detector of a ``reward`` that rises while a held-out loss (``worsening``) rises too.

    Both are compared with their first values, since they are written at different steps. It warns if the reward rose
    by the share ``rose`` of its size, and the loss by the share ``worse``.
    """

    reward: str
    worsening: str
    message: str
    rose: float = 0.05
    worse: float = 0.5
    _first: dict[str, float] = field(default_factory=dict)
    _newest: dict[str, float] = field(default_factory=dict)

    def check(self, step: int, values: Mapping[str, float]) -> str | None:
        """Return ``message`` if both rose, else a result as in ``Detector.check``.

        {reward_before}, {reward_now}, {before} and {now} are the values of both.
        """
        del step
        for name in (self.reward, self.worsening):
            if name in values:
                self._first.setdefault(name, values[name])
                self._newest[name] = values[name]
        if self.worsening not in values or self.reward not in self._newest:
            return None
        reward_before, reward_now = self._first[self.reward], self._newest[self.reward]
        before, now = self._first[self.worsening], self._newest[self.worsening]
        if reward_now - reward_before < self.rose * abs(reward_before) or now - before < self.worse * abs(before):
            return ""
        return self.message.format(reward_before=reward_before, reward_now=reward_now, before=before, now=now)


@dataclass
class Estrangement:
    """Detector of a loss that falls while a distance of the generated images from real ones rises.

    A distance is a metric of a suite that ends in one of ``endings``. Each is compared with its value ``readings``
    suites ago. It warns if the loss, the first of ``losses`` that the run writes, fell by the share ``fell`` since, and
    the distance rose by the share ``rose``.
    """

    losses: tuple[str, ...]
    endings: tuple[str, ...]
    message: str
    readings: int = 3
    fell: float = 0.01
    rose: float = 0.1
    _losses: dict[str, float] = field(default_factory=dict)
    _history: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)

    def check(self, step: int, values: Mapping[str, float]) -> str | None:
        """Return ``message`` for the first distance that rose, else a result as in ``Detector.check``.

        {name}, {before} and {now} are of the distance; {loss_before} and {loss_now} are of the loss.
        """
        del step
        self._losses |= {name: values[name] for name in self.losses if name in values}
        loss = next((self._losses[name] for name in self.losses if name in self._losses), None)
        distances = [name for name in values if name.startswith("suites/") and name.endswith(self.endings)]
        if not distances or loss is None:
            return None
        found = ""
        for name in distances:
            history = self._history.setdefault(name, deque(maxlen=self.readings))
            history.append((loss, values[name]))
            (loss_before, before), (loss_now, now) = history[0], history[-1]
            fell = loss_before - loss_now >= self.fell * abs(loss_before)
            if len(history) == self.readings and fell and now - before >= self.rose * abs(before) and not found:
                found = self.message.format(
                    name=name, before=before, now=now, loss_before=loss_before, loss_now=loss_now
                )
        return found


class Alerts:
    """The alerts of a run: each detector warns once until its metric recovers."""

    def __init__(self, abort_after: int, detectors: tuple[Detector, ...]):
        self._abort_after = abort_after
        self._detectors = detectors
        self._active: set[int] = set()

    def warnings(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Return the new warnings for the metrics of a step."""
        reasons = {"train/skipped": "were not finite", "train/spiked": "had a spike in their gradient norm"}
        messages = [
            f"{values[name]:.0%} of the last updates {reason}: skipped"
            for name, reason in reasons.items()
            if values.get(name, 0.0) > 0
        ]
        for index, detector in enumerate(self._detectors):
            message = detector.check(step, values)
            if message and index not in self._active:
                messages.append(message)
            if message is not None:
                (self._active.add if message else self._active.discard)(index)
        return [f"WARNING step {step}: {message}" for message in messages]

    def check(self, step: int, skipped_in_a_row: int) -> None:
        """Raise UserError if too many updates in a row were skipped, since the run has diverged."""
        if skipped_in_a_row >= self._abort_after:
            raise UserError(
                f"stopped at step {step}: the last {skipped_in_a_row} updates in a row were not finite or had a spike "
                f"in their gradient norm (the limit is {self._abort_after}). The newest checkpoint was saved before; "
                "resume with a lower learning rate, a longer warm-up or a smaller trainer.clip_norm"
            )


def detectors(warmup: int = 0) -> tuple[Detector, ...]:
    """Return all detectors. Detectors of slow learning start after the ``warmup`` steps of the learning rate."""
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
            "ONE-COLOUR SAMPLES: {value:.0%} of the sample images have a single colour. If the image "
            "tokenizer also reconstructs images in one colour, train the tokenizer again (codebook/usage shows whether "
            "its codebook collapsed); else train longer, lower the guidance, or raise the temperature.",
            above=0.4,
            after=200,
        ),
        Threshold(
            "evaluation/guidance_effect",
            "GUIDANCE WITHOUT EFFECT: a caption changes the logits of the codes by {value:.2g} nats on average, so "
            "guided samples are like unguided ones and captions are ignored. Check that captions belong to their "
            "images and are not cut or empty, that task.blank_captions is about 0.1, and train longer.",
            below=0.01,
            after=warmup + 300,
        ),
        *(
            Threshold(
                f"train/{name}",
                "STUCK AT UNIFORM: the "
                + what
                + " is {value:.1%} of its value for random guesses, so nothing has been learned "
                "yet. Raise the learning rate or shorten the warm-up, and check that images and captions belong "
                "together (images/ in the run folder).",
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
            "GRADIENT NORM EXPLODING: {name} is {value:.3g}; its median was {usual:.3g}. Lower the learning rate, "
            "lengthen the warm-up, set trainer.clip_norm, or skip such updates with trainer.spikes = @SkipSpikes and "
            "trainer.spikes.times = 10.",
        ),
        Divergence(
            "evaluation/image_nll",
            "evaluation/clip_score",
            "THE LOSS FALLS AND SO DOES THE CLIP SCORE: nats per code went from {before:.4g} to {now:.4g} while the "
            "CLIP score went from {other_before:.4g} to {other_now:.4g}: the model predicts codes better from other "
            "codes, but follows the caption less. Raise task.blank_captions or the guidance, check that captions "
            "belong to their images, and choose checkpoints by the CLIP score.",
        ),
        Estrangement(
            ("evaluation/image_nll", "evaluation/loss", "train/loss"),
            ("/fd", "/rfd", "/mind", "/kid"),
            "THE LOSS FALLS WHILE {name} RISES: the loss went from {loss_before:.4g} to {loss_now:.4g}, and the "
            "distance of the generated images from real ones from {before:.4g} to {now:.4g}. Copies of training images "
            "in the run's images/ mean too little data: add data, augmentation or dropout, or stop here. Broken images "
            "mean that sampling fails: lower the temperature or top-k, or average longer with trainer.ema. "
            "trainer.keep_every keeps the checkpoints among which you choose by {name}.",
        ),
        *_of_rewards(),
    )


def _of_rewards() -> tuple[Detector, ...]:
    """Return the detectors of training by rewards."""
    return (
        *(
            Hacking(
                "train/reward",
                f"evaluation/{worsening}",
                "REWARD HACKING?: the reward rose from {reward_before:.4g} to {reward_now:.4g} while "
                + what
                + " of held-out images went from {before:.4g} to {now:.4g}: samples may please the reward alone. Look "
                "at images/, judge them by a reward that was not trained on, raise task.anchor or task.kl, or take an "
                "earlier checkpoint.",
            )
            for worsening, what in (
                ("image_nll", "nats per code"),
                ("nll_text", "nats per code"),
                ("mse_text", "the error of x0"),
            )
        ),
        Hacking(
            "train/preference_margin",
            "evaluation/image_nll",
            "PREFERENCES COST LIKELIHOOD: pairs are told apart by {reward_now:.4g} nats, {reward_before:.4g} before, "
            "while nats per code of held-out images went from {before:.4g} to {now:.4g}. Raise task.beta or "
            "task.preferred_weight, lower the learning rate, or take an earlier checkpoint.",
        ),
        Threshold(
            "train/live_groups",
            "GROUPS ALL ALIKE: only {value:.0%} of the prompts have images of different rewards, so little is learned. "
            "If train/reward is high, the prompts are solved: take harder ones. Else the reward may be constant: "
            "check its parts, raise task.group or task.temperature, or add a reward of finer steps.",
            below=0.1,
        ),
        Threshold(
            "train/entropy_kept",
            "ENTROPY GONE: the model has {value:.0%} of the entropy of its start, so a prompt's images are nearly "
            "equal. Raise task.entropy, task.kl or task.anchor, lower the learning rate, or add @SpreadCodes.",
            below=0.3,
        ),
        Threshold(
            "train/kl_infinite",
            "KL INFINITE: at {value:.1%} of the codes the starting model gives probability 0 to a code that the "
            "trained one may draw. The KL leaves them out. Check that task.reference is the model of trainer.initial.",
            above=0.0,
        ),
        Threshold(
            "speed/judging_per_rollout",
            "SLOW REWARD: judging takes {value:.1f} times as long as sampling. Judge a batch of images in one call, "
            "use a smaller network, or take fewer images (task.group).",
            above=1.0,
        ),
    )
