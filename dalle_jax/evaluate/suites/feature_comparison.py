"""Features of streamed images, and the distances of two sets of features."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import ClassProbabilities, FeatureExtractor
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.inception_score import ClassRows, InceptionScore
from dalle_jax.evaluate.metrics.distributions.kernel_distance import ClipDiscrepancy, KernelDistance
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares, row_blocks, squared_distances
from dalle_jax.evaluate.metrics.distributions.set_comparison import FeatureDistance
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import SlicedWasserstein
from dalle_jax.evaluate.metrics.metric import Measurement, merge_over_hosts
from dalle_jax.evaluate.suites.image_sets import NumberedImages
from dalle_jax.evaluate.suites.panels import PanelFigure, Plot, PlotLine

DistanceName = Literal["fd", "kid", "mind", "cmmd", "neighbours"]
DISTANCES: dict[DistanceName, FeatureDistance] = {
    "fd": FrechetDistance(),
    "kid": KernelDistance(),
    "mind": SlicedWasserstein(),
    "cmmd": ClipDiscrepancy(),
    "neighbours": NeighbourShares(),
}
"""Distances by the names in configs and flags; "neighbours" is precision, recall, density and coverage."""
DEFAULT_DISTANCES: tuple[DistanceName, ...] = ("fd", "kid", "mind", "neighbours")

LABELS = {
    "retrieval_top1": "Own caption is the most similar",
    "retrieval_top5": "Own caption is one of the five most similar",
    "fd": "FD",
    "rfd": "rFD",
    "kid": "KID",
    "kid_subsets": "KID, mean of random subsets",
    "mind": "MIND",
    "cmmd": "CMMD",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "clip_score": "CLIPScore",
    "is": "Inception Score",
    "lpips_diversity": "LPIPS diversity of a prompt's images",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
}
SHARES = ("precision", "recall", "coverage", "retrieval_top1", "retrieval_top5")
"""Measurements that are shares."""
POINTS = 60
"""Points of a cumulative plot."""


class FeatureStream:
    """Sets of features of one stream of images, one set for each extractor.

    With ``classify`` the Inception Score is accumulated by each extractor that is a classifier. Raise ``UserError`` if
    none is.
    """

    def __init__(self, extractors: Sequence[FeatureExtractor], classify: bool = False) -> None:
        self._extractors = tuple(extractors)
        self.sets: list[FeatureSet] = []
        classifiers = [one for one in extractors if classify and isinstance(one, ClassProbabilities)]
        if classify and not classifiers:
            names = ", ".join(one.name.split()[0] for one in extractors) or "none"
            raise UserError(f"is: expected inception:FILE among the features, whose classes it needs, got {names}")
        self._classifiers = {one.name: one for one in classifiers}
        self._scores = {one.name: InceptionScore(one.name, one.classes) for one in classifiers}

    def update(self, batch: NumberedImages) -> None:
        """Add images. Raise ``UserError`` for features that are not finite."""
        if not self.sets:
            height, width = batch.images.shape[1:3]
            self.sets = [FeatureSet(one.name, one.width, (height, width)) for one in self._extractors]
        for extractor, found in zip(self._extractors, self.sets, strict=True):
            features = extractor.features(batch.images)
            found.update(FeatureRows(batch.numbers, features))
            if extractor.name in self._scores:
                rows = self._classifiers[extractor.name].probabilities_of_features(features)
                self._scores[extractor.name].update(ClassRows(batch.numbers, rows))

    def merged(self) -> list[FeatureSet]:
        """Return the sets of all processes, which must call this at the same point."""
        own = self.sets or [FeatureSet(one.name, one.width) for one in self._extractors]
        return [merge_over_hosts(one) for one in own]

    def class_scores(self, merge: bool = True) -> list[tuple[Measurement, ...]]:
        """Return the Inception Score by each extractor, empty for those that do not classify.

        With ``merge`` it is of the images of all processes, which must call this together.
        """
        scores = {name: merge_over_hosts(one) if merge else one for name, one in self._scores.items()}
        return [scores[one.name].result() if one.name in scores else () for one in self._extractors]


def features_of(
    batches: Iterable[NumberedImages], extractors: Sequence[FeatureExtractor], see: Callable[[int], None]
) -> list[FeatureSet]:
    """Return the features of a stream for each extractor; ``see`` takes the number of images done by this process."""
    found, done = FeatureStream(extractors), 0
    for batch in batches:
        found.update(batch)
        done += len(batch.numbers)
        see(done)
    return found.merged()


def compare(reference: FeatureSet, generated: FeatureSet, distances: Sequence[DistanceName]) -> tuple[Measurement, ...]:
    """Return all measurements of two sets. Raise ``UserError`` for too few images or sets that are not comparable."""
    return tuple(one for name in distances for one in DISTANCES[name].compare(reference, generated))


def figure_of(path: str, measured: Measurement, prefix: str = "") -> PanelFigure:
    """Return the figure of a measurement, whose JSON is at ``path``."""
    share = measured.name in SHARES
    counts = f"{measured.count:,} {'prompts' if measured.name == 'lpips_diversity' else 'images'}"
    if measured.reference_count is not None:
        counts += f" against {measured.reference_count:,}"
    noise = "" if measured.noise is None else f"; two samples of one distribution give {measured.noise:.4g}"
    label = LABELS.get(measured.name, measured.name)
    return PanelFigure(
        f"{path}.{measured.name}.value",
        prefix + label,
        measured.value,
        "percent" if share else "decibel" if measured.name == "psnr" else "number",
        measured.interval,
        counts + noise,
    )


def nearest(
    rows: Float[np.ndarray, "n D"], others: Float[np.ndarray, "m D"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Return the distance of each row to the nearest other one, and of each other one to the nearest row."""
    own, reverse = np.empty(len(rows), np.float32), np.full(len(others), np.inf, np.float32)
    for block in row_blocks(len(rows), len(others)):
        squared = squared_distances(rows[block], others)
        own[block] = squared.min(axis=1)
        np.minimum(reverse, squared.min(axis=0), out=reverse)
    return np.sqrt(own), np.sqrt(reverse)


def cumulative_plot(title: str, x_label: str, values: dict[str, Float[np.ndarray, " _"]]) -> Plot:
    """Return a plot of the share of images up to each value, a line for each name."""
    lines = []
    for name, found in values.items():
        shares = np.linspace(0, 1, min(POINTS, max(2, len(found))))
        at = np.quantile(found, shares)
        lines.append(PlotLine(name, tuple(zip(at.tolist(), shares.tolist(), strict=True))))
    return Plot(title, x_label, tuple(lines), percent=True)
