"""Comparison of a set of images with another one by features, and with their captions by a CLIP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor
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
    features_of,
    figure_of,
    nearest,
)
from dalle_jax.evaluate.suites.image_sets import ImageSet, NumberedImages, stream
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, PanelFigure, Plot, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import TextImageEncoder
from dalle_jax.parallel import hosts

AMONG = 100
"""Captions with which retrieval compares an image; images are read so many at a time."""


@dataclass(frozen=True)
class CompareImages:
    """Options of a comparison: its ``distances``, the first ``count`` images of each set, and ``shown`` images.

    ``count`` None is all images. The page shows the ``shown`` worst images of each kind.
    """

    distances: tuple[DistanceName, ...] = DEFAULT_DISTANCES
    count: int | None = None
    shown: int = 24


@dataclass(frozen=True)
class ImageFindings:
    """Measurements of a set of images, by extractor and by CLIP, and the images behind them.

    ``sets`` are the compared sets and their numbers of images, and ``unreadable`` lines about images left out.
    """

    sets: tuple[tuple[str, int], ...]
    by_features: Mapping[str, tuple[Measurement, ...]]
    by_clip: tuple[Measurement, ...]
    plots: tuple[Plot, ...]
    images: tuple[ShownImages, ...]
    unreadable: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """Return all measurements with their intervals and counts."""
        sets = [{"name": name, "count": count} for name, count in self.sets]
        out: JsonObject = {"sets": sets, "unreadable": list(self.unreadable)}
        for name, measured in (*self.by_features.items(), *((("captions", self.by_clip),) if self.by_clip else ())):
            out[name] = {one.name: one.to_json() for one in measured}
        return out

    def panel(self) -> Panel:
        """Return the panel of the page."""
        figures: list[PanelFigure] = []
        for name, measured in self.by_features.items():
            figures += [figure_of(name, one, f"{name}: ") for one in measured]
        figures += [figure_of("captions", one) for one in self.by_clip]
        names = {one.features for listed in (*self.by_features.values(), self.by_clip) for one in listed}
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
    against: ImageSet | None,
    extractors: Mapping[str, FeatureExtractor],
    clip: TextImageEncoder | None,
    config: CompareImages,
    say: Callable[[str], None],
) -> ImageFindings:
    """Read both sets once and measure; all processes must call this together, and each reads its share.

    ``extractors`` are named as in the JSON. Without ``against`` only ``clip`` measures. Raise ``UserError`` if neither
    is given, for too few images, for sizes that differ, and for an image without a caption.
    """
    if clip is None and (against is None or not extractors):
        raise UserError("evaluate: expected a set to compare the images with, or a CLIP to score them, got neither")
    scored = CaptionScores(clip) if clip is not None else None
    used = tuple(extractors.values()) if against is not None else ()
    found, seen = FeatureStream(used), 0
    for batch in stream(images, AMONG, config.count):
        if used:
            found.update(batch)
        if scored is not None:
            scored.update(batch)
        seen += len(batch.numbers)
        _progress(say, images.name, seen)
    sets = found.merged()
    by_features: dict[str, tuple[Measurement, ...]] = {}
    plots: list[Plot] = []
    shown: list[ShownImages] = []
    read = [(images.name, sum(counts_of_hosts(seen)))]
    if against is not None:
        other = features_of(stream(against, AMONG, config.count), used, lambda done: _progress(say, against.name, done))
        read.append((against.name, other[0].count))
        for (name, _), reference, generated in zip(extractors.items(), other, sets, strict=True):
            by_features[name] = compare(reference, generated, config.distances)
            say(f"{name}: {summary(by_features[name])}")
        far, plot = farthest(images, against, sets[0], other[0], config.shown)
        shown += far
        plots.append(plot)
    by_clip: tuple[Measurement, ...] = ()
    if scored is not None:
        by_clip = scored.result()
        say(f"captions: {summary(by_clip)}")
        plots.append(scored.plot())
        shown.append(scored.worst(images, config.shown))
    unreadable = tuple(line for one in (images, against) if one is not None for line in unreadable_lines(one))
    return ImageFindings(tuple(read), by_features, by_clip, tuple(plots), tuple(shown), unreadable)


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
    images: ImageSet, against: ImageSet, generated: FeatureSet, reference: FeatureSet, shown: int
) -> tuple[list[ShownImages], Plot]:
    """Return the images that are farthest from the other set, both ways, and a plot of all distances."""
    rows, others = generated.rows(), reference.rows()
    own, reverse = nearest(rows.features, others.features)
    groups = []
    for title, one, numbers, distances in (
        (f"{images.name}: the farthest from all of {against.name} first", images, rows.numbers, own),
        (f"{against.name}: the farthest from all of {images.name} first", against, others.numbers, reverse),
    ):
        order = np.argsort(-distances, kind="stable")[:shown]
        found = [shown_image(one, int(numbers[i]), f"distance {distances[i]:.3g}") for i in order]
        groups.append(ShownImages(title, tuple(image for listed in found for image in listed)))
    names = {f"{images.name} to the nearest of {against.name}": own, "and back": reverse}
    plot = cumulative_plot("images up to a distance", f"distance of {generated.features.split()[0]}", names)
    return groups, plot


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


def _progress(say: Callable[[str], None], name: str, done: int) -> None:
    if done % (10 * AMONG) == 0:
        say(f"{name}: {done:,} images read")
