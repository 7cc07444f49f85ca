"""Comparison of a set of images with another one by features, and with their captions by a CLIP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor, ImageDistance
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.metric import Measurement, merge_over_hosts
from dalle_jax.evaluate.metrics.score_means import ScoreMeans, Scores, clip_scores
from dalle_jax.evaluate.suites.evaluate_captioned import TOP, retrieved_among
from dalle_jax.evaluate.suites.feature_comparison import (
    DEFAULT_DISTANCES,
    DistanceName,
    FeatureStream,
    compare,
    cumulative_plot,
    figure_of,
    nearest,
)
from dalle_jax.evaluate.suites.image_sets import ImageSet, NumberedImages, stream
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, PanelFigure, Plot, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import TextImageEncoder
from dalle_jax.evaluate.suites.sets.caption_groups import CaptionGroups
from dalle_jax.evaluate.suites.sets.reference_sets import ReferenceSet
from dalle_jax.parallel import hosts

AMONG = 100
"""Captions with which retrieval compares an image; images are read so many at a time."""


@dataclass(frozen=True)
class Judges:
    """Networks that measure images: feature extractors by their names in the JSON, a CLIP, and LPIPS."""

    extractors: Mapping[str, FeatureExtractor] = field(default_factory=dict)
    clip: TextImageEncoder | None = None
    lpips: ImageDistance | None = None


@dataclass(frozen=True)
class CompareImages:
    """Options of a comparison: its ``distances``, the first ``count`` images of each set, and ``shown`` images.

    ``count`` None is all images. The page shows the ``shown`` worst images of each kind. With ``inception_score`` the
    extractors that are classifiers give it.
    """

    distances: tuple[DistanceName, ...] = DEFAULT_DISTANCES
    count: int | None = None
    shown: int = 24
    inception_score: bool = False


@dataclass(frozen=True)
class ImageFindings:
    """Measurements of a set of images, by extractor, by CLIP and by LPIPS, and the images behind them.

    ``sets`` are the compared sets and their numbers of images, and ``unreadable`` lines about images left out.
    """

    sets: tuple[tuple[str, int], ...]
    by_features: Mapping[str, tuple[Measurement, ...]]
    by_clip: tuple[Measurement, ...]
    by_lpips: tuple[Measurement, ...]
    plots: tuple[Plot, ...]
    images: tuple[ShownImages, ...]
    unreadable: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """Return all measurements with their intervals and counts."""
        sets = [{"name": name, "count": count} for name, count in self.sets]
        out: JsonObject = {"sets": sets, "unreadable": list(self.unreadable)}
        for name, measured in self._parts().items():
            out[name] = {one.name: one.to_json() for one in measured}
        return out

    def _parts(self) -> dict[str, tuple[Measurement, ...]]:
        others = {"captions": self.by_clip, "candidates": self.by_lpips}
        return {**self.by_features, **{name: measured for name, measured in others.items() if measured}}

    def panel(self) -> Panel:
        """Return the panel of the page."""
        figures: list[PanelFigure] = []
        for name, measured in self._parts().items():
            prefix = f"{name}: " if name in self.by_features else ""
            figures += [figure_of(name, one, prefix) for one in measured]
        names = {one.features for listed in self._parts().values() for one in listed}
        seen_by = f"Features: {'; '.join(sorted(filter(None, names)))}. " if any(names) else ""
        return Panel(
            " against ".join(name for name, _ in self.sets),
            f"{seen_by}Intervals resample the images. Training again with another seed moves a figure more than that.",
            tuple(figures),
            plots=self.plots,
            images=self.images,
            warnings=self.unreadable,
        )


def compare_images(
    images: ImageSet,
    against: ReferenceSet | None,
    judges: Judges,
    config: CompareImages,
    say: Callable[[str], None],
) -> ImageFindings:
    """Read both sets once and measure; all processes must call this together, and each reads its share.

    Without ``against`` the extractors give the Inception Score alone. Raise ``UserError`` if nothing measures, for too
    few images, for sizes that differ, and for an image without a caption.
    """
    compares = against is not None and bool(judges.extractors)
    if not (compares or config.inception_score or judges.clip or judges.lpips):
        raise UserError("evaluate: expected a set to compare the images with, or a CLIP to score them, got neither")
    scored = CaptionScores(judges.clip) if judges.clip is not None else None
    used = tuple(judges.extractors.values()) if compares or config.inception_score else ()
    found, groups, seen = FeatureStream(used, config.inception_score), CaptionGroups(), 0
    for batch in stream(images, AMONG, config.count):
        if used:
            found.update(batch)
        if scored is not None:
            scored.update(batch)
        groups.update(batch)
        seen += len(batch.numbers)
        if seen % (10 * AMONG) == 0:
            say(f"{images.name}: {seen:,} images read")
    read = [(images.name, sum(counts_of_hosts(seen)))]
    by_features: dict[str, tuple[Measurement, ...]] = dict.fromkeys(judges.extractors if used else (), ())
    plots: list[Plot] = []
    shown: list[ShownImages] = []
    if against is not None and compares:
        sets, other = found.merged(), against.features(used, AMONG, config.count, say)
        read.append((against.name, other[0].count))
        for name, reference, generated in zip(judges.extractors, other, sets, strict=True):
            by_features[name] = compare(reference, generated, config.distances)
        far, plot = farthest(images, against, sets[0], other[0], config.shown)
        shown += far
        plots += plot
    for name, measured in zip(by_features, found.class_scores(), strict=True):
        by_features[name] += measured
        say(f"{name}: {summary(by_features[name])}")
    by_clip: tuple[Measurement, ...] = ()
    if scored is not None:
        by_clip = scored.result()
        say(f"captions: {summary(by_clip)}")
        plots.append(scored.plot())
        shown.append(scored.worst(images, config.shown))
    by_lpips: tuple[Measurement, ...] = ()
    if judges.lpips is not None:
        diverse = groups.measure(images, judges.lpips, config.shown, say)
        by_lpips = diverse.measured
        say(f"candidates: {summary(by_lpips)}")
        shown.append(diverse.least)
    both = (images, None if against is None else against.images)
    unreadable = tuple(line for one in both if one is not None for line in unreadable_lines(one))
    return ImageFindings(tuple(read), by_features, by_clip, by_lpips, tuple(plots), tuple(shown), unreadable)


class CaptionScores:
    """CLIPScore and retrieval of images by their first captions, accumulated over batches."""

    def __init__(self, clip: TextImageEncoder) -> None:
        self._clip = clip
        self._scores = ScoreMeans(("clip_score",))
        self._found = ScoreMeans(tuple(f"retrieval_top{top}" for top in TOP))

    def update(self, batch: NumberedImages) -> None:
        """Add images. Retrieval is among the captions of a batch, if these are more than five."""
        captions = [first_caption(batch, row) for row in range(len(batch.numbers))]
        vectors, texts = self._clip.image_vectors(batch.images), self._clip.text_vectors(captions)
        self._scores.update(Scores(batch.numbers, {"clip_score": clip_scores(vectors, texts)}))
        if len(captions) > max(TOP):
            outcomes = {f"retrieval_top{top}": retrieved_among(vectors @ texts.T, captions, top) for top in TOP}
            self._found.update(Scores(batch.numbers, outcomes))

    def result(self) -> tuple[Measurement, ...]:
        """Return the means of all processes, which must call this together."""
        self._scores, self._found = merge_over_hosts(self._scores), merge_over_hosts(self._found)
        return self.means()

    def means(self) -> tuple[Measurement, ...]:
        """Return the means of this process's images."""
        found = self._found.by_number(self._found.names[0])
        return (*self._scores.result(), *(self._found.result() if found else ()))

    def plot(self) -> Plot:
        """Return the distribution of the scores."""
        values = np.array(list(self._scores.by_number("clip_score").values()))
        return cumulative_plot("images up to a CLIPScore", "CLIPScore", {"images": values})

    def worst(self, images: ImageSet, shown: int) -> ShownImages:
        """Return the images of the lowest scores."""
        lowest = list(self._scores.by_number("clip_score").items())[:shown]
        return ShownImages(
            "The least similar to their caption first",
            tuple(one for number, score in lowest for one in shown_image(images, number, f"CLIPScore {score:.1f}")),
        )


def first_caption(batch: NumberedImages, row: int) -> str:
    """Return an image's first caption. Raise ``UserError`` if it has none."""
    if not batch.captions[row]:
        raise UserError(
            f"captions: expected one for each image that a CLIP scores, got none for number {batch.numbers[row]}"
        )
    return batch.captions[row][0]


def farthest(
    images: ImageSet, against: ReferenceSet, generated: FeatureSet, reference: FeatureSet, shown: int
) -> tuple[list[ShownImages], list[Plot]]:
    """Return the images that are farthest from the other set, both ways, and a plot of all distances.

    Without the features of each image of the reference there are none.
    """
    rows, others = generated.rows(), reference.rows()
    if not len(others):
        return [], []
    own, reverse = nearest(rows.features, others.features)
    groups = []
    for title, one, numbers, distances in (
        (f"{images.name}: the farthest from all of {against.name} first", images, rows.numbers, own),
        (f"{against.name}: the farthest from all of {images.name} first", against.images, others.numbers, reverse),
    ):
        if one is not None:
            order = np.argsort(-distances, kind="stable")[:shown]
            found = [shown_image(one, int(numbers[i]), f"distance {distances[i]:.3g}") for i in order]
            groups.append(ShownImages(title, tuple(image for listed in found for image in listed)))
    names = {"to the nearest of the reference": own, "from the reference to the nearest": reverse}
    plot = cumulative_plot("images up to a distance", f"distance of {generated.features.split()[0]}", names)
    return groups, [plot]


def shown_image(images: ImageSet, number: int, note: str) -> list[ShownImage]:
    """Read one image again for the page; the list is empty if it cannot be read any more."""
    found = images.read([number])
    captions = [listed[0] if listed else f"number {number}" for listed in found.captions]
    return [ShownImage(image, caption, note) for image, caption in zip(found.images, captions, strict=True)]


def unreadable_lines(images: ImageSet) -> list[str]:
    """Return a line from each process that left images out."""
    bad = images.unreadable()
    more = "" if len(bad) == 1 else f" and {len(bad) - 1:,} more"
    line = f"{images.name}: left out {bad[0]}{more}" if bad else ""
    return [content.decode() for content in hosts.gather(line.encode()) if content]


def summary(measured: Sequence[Measurement]) -> str:
    """Return the measurements on one line."""
    return ", ".join(f"{one.name} {one.value:.4g}" for one in measured)


def counts_of_hosts(own: int) -> list[int]:
    """Return a number of each process."""
    return [int(content) for content in hosts.gather(str(own).encode())]
