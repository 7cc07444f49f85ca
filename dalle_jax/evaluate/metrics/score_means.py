"""Means of scores that every image has of its own, such as PSNR or CLIPScore, with bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.bootstrap import bootstrap_interval
from dalle_jax.evaluate.metrics.metric import Measurement, require_count


@dataclass(frozen=True)
class Scores:
    """Scores of some images, or of some prompts, by name; ``numbers`` identify them in their source."""

    numbers: Int[np.ndarray, " B"]
    by_name: Mapping[str, Float[np.ndarray, " B"]]


class ScoreMeans:
    """Means of the scores ``names``. ``features`` names the network that gave them, if one did."""

    def __init__(self, names: tuple[str, ...], features: str = ""):
        self.names, self.features = names, features
        self._numbers = np.zeros(0, np.int64)
        self._scores = {name: np.zeros(0) for name in names}

    def update(self, batch: Scores) -> None:
        """Add scores. Raises ``UserError`` for a score that is not finite or an image that came before."""
        if set(batch.by_name) != set(self.names):
            raise ValueError(f"scores: expected {', '.join(self.names)}, got {', '.join(batch.by_name)}")
        for name, scores in batch.by_name.items():
            bad = np.flatnonzero(~np.isfinite(scores))
            if len(bad):
                raise UserError(
                    f"{name}: expected finite scores, got NaN or infinity for {len(bad)} of {len(scores)} images, "
                    f"the first of them number {batch.numbers[bad[0]]}"
                )
        self._add(batch.numbers, batch.by_name)

    def merge(self, other: "ScoreMeans") -> None:
        """Add the scores of another metric of the same names."""
        self._add(other._numbers, other._scores)

    def _add(self, numbers: Int[np.ndarray, " B"], scores: Mapping[str, Float[np.ndarray, " B"]]) -> None:
        joined = np.concatenate([self._numbers, numbers])
        order = np.argsort(joined, kind="stable")
        self._numbers = joined[order]
        repeated = np.flatnonzero(np.diff(self._numbers) == 0)
        if len(repeated):
            raise UserError(f"images: expected each once, got number {self._numbers[repeated[0]]} more than once")
        self._scores = {name: np.concatenate([self._scores[name], scores[name]])[order] for name in self.names}

    def result(self) -> tuple[Measurement, ...]:
        """Return the mean of each score, in the order of ``names``."""
        count = len(self._numbers)
        require_count(self.names[0], "scored", count, 1, "a mean needs one")
        return tuple(
            Measurement(
                name=name,
                value=float(scores.mean()),
                count=count,
                interval=bootstrap_interval(float(scores.mean()), [scores]) if count > 1 else None,
                features=self.features,
            )
            for name, scores in self._scores.items()
        )

    def by_number(self, name: str) -> dict[int, float]:
        """Return the score of each image by its number, from the lowest to the highest."""
        order = np.argsort(self._scores[name], kind="stable")
        return dict(zip(self._numbers[order].tolist(), self._scores[name][order].tolist(), strict=True))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state as arrays."""
        return {"numbers": self._numbers, **{f"score.{name}": scores for name, scores in self._scores.items()}}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "ScoreMeans":
        """Return a metric of the same names with the given state."""
        out = ScoreMeans(self.names, self.features)
        out._numbers = arrays["numbers"]
        out._scores = {name: arrays[f"score.{name}"] for name in self.names}
        return out


def clip_scores(
    images: Float[np.ndarray, "B E"], captions: Float[np.ndarray, "B E"], scale: float = 100.0
) -> Float[np.ndarray, " B"]:
    """Return CLIPScore: ``scale`` times the cosine of an image's and its caption's CLIP vectors, at least 0.

    Hessel et al. (arXiv 2104.08718, equation 1) scale by 2.5, torchmetrics by 100. Scores of different CLIPs must not
    be compared, and a CLIP prefers the images that it chose.
    """
    images, captions = images.astype(np.float64), captions.astype(np.float64)
    lengths = np.linalg.norm(images, axis=1) * np.linalg.norm(captions, axis=1)
    return scale * np.maximum((images * captions).sum(axis=1) / lengths, 0)
