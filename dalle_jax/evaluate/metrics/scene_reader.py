"""Accuracy of the scene reader: its verdicts on captions that are known to be true or false."""

from collections.abc import Sequence
from dataclasses import dataclass

from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.scenes.reader_accuracy import Degradation, blur_and_noise, measure_reader

CLEAN, BLURRED = "clean", "blurred"


@dataclass(frozen=True)
class ReaderCheck:
    """Shares of captions that the reader accepted on one kind of image.

    ``wrong_accepted`` is for captions with one attribute changed, ``other_accepted`` for captions of other scenes.
    """

    name: str
    title: str
    true_accepted: Share
    wrong_accepted: Share
    other_accepted: Share | None = None

    def to_json(self) -> dict[str, object]:
        """Return ``{"true_accepted": 0.99, "wrong_accepted": 0.01, "other_accepted": 0.0, "count": 600}``."""
        return {
            "true_accepted": self.true_accepted.value,
            "wrong_accepted": self.wrong_accepted.value,
            "other_accepted": None if self.other_accepted is None else self.other_accepted.value,
            "count": self.true_accepted.count,
        }


def check_reader(levels: Sequence[int], size: int, count: int, seed: int) -> tuple[ReaderCheck, ReaderCheck]:
    """Check the reader on ``count`` rendered scenes of each level. Return its results on clean and on degraded images.

    Degraded images are blurred and noised about as much as by an image tokenizer.
    """
    clean = check_reader_on(CLEAN, "Clean", levels, size, count, seed)
    blurred = "Blurred and noised as by an image tokenizer"
    return clean, check_reader_on(BLURRED, blurred, levels, size, count, seed, blur_and_noise)


def check_reader_on(
    name: str, title: str, levels: Sequence[int], size: int, count: int, seed: int, degrade: Degradation | None = None
) -> ReaderCheck:
    """Check the reader on one kind of image: rendered scenes, changed by ``degrade`` if it is given.

    ``degrade`` may be the reconstruction by an image tokenizer, for example.
    """
    rates = [measure_reader(level, size, count, seed, degrade) for level in levels]
    total = sum(rate.count for rate in rates)
    return ReaderCheck(
        name=name,
        title=title,
        true_accepted=Share(sum(round(rate.accepted_true * rate.count) for rate in rates), total),
        wrong_accepted=Share(sum(round(rate.accepted_near * rate.count) for rate in rates), total),
        other_accepted=Share(sum(round(rate.accepted_random * rate.count) for rate in rates), total),
    )
