"""Evaluation by images sampled for the data's own captions, against the data's images, by networks that ranked nothing.

Prompts are sampled in bulk and every image is dropped once its features are known, so memory does not grow with their
number: 30,000 captions, as published FIDs on COCO use, take as much as 1,000.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor, ImageDistance
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.image_pairs import diversity
from dalle_jax.evaluate.metrics.metric import Measurement
from dalle_jax.evaluate.metrics.score_means import ScoreMeans, Scores
from dalle_jax.evaluate.suites.compare_images import AMONG, CaptionScores, summary
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_captioned import CaptionedBatch
from dalle_jax.evaluate.suites.feature_comparison import (
    DEFAULT_DISTANCES,
    DistanceName,
    FeatureStream,
    compare,
    cumulative_plot,
    figure_of,
    nearest,
)
from dalle_jax.evaluate.suites.image_sets import NumberedImages
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, Plot, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import TextImageEncoder
from dalle_jax.evaluate.suites.sets.caption_groups import DIVERSITY
from dalle_jax.pipelines.bulk.device_engine import BulkEngine, DrawnPrompt
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, Survey
from dalle_jax.pipelines.request import Request, RequestOptions

KEPT = 1000
"""Sampled images that are kept, those of the first prompts; the page shows the farthest of them."""


@dataclass(frozen=True)
class EvaluateImages:
    """Evaluation by images of the first ``captions`` held-out captions of the data, against the held-out images.

    - ``features``: networks whose features are compared, as ``evaluate --features`` names them.
    - ``judge_clip``: the folder of a CLIP that scores images and retrieves captions; it should not be the one that
      ranks the candidates.
    - ``distances``: the measurements of features; ``inception_score`` adds that of the features that classify.
    - ``lpips``: the folder of imported LPIPS weights, which measure the diversity of a prompt's candidates.
    - ``shown``: the farthest images that the page shows, for the first candidate and for CLIP's choice.
    """

    drawing: Drawing
    captions: int = 30_000
    features: tuple[str, ...] = ("efficientnet-lite0",)
    judge_clip: str | None = None
    distances: tuple[DistanceName, ...] = DEFAULT_DISTANCES
    seed: int = 0
    shown: int = 24
    inception_score: bool = False
    lpips: str | None = None

    def __post_init__(self) -> None:
        if self.lpips is not None and self.drawing.candidates < 2:
            raise ValueError("lpips: expected None with one candidate of each prompt, which has no diversity")
        if self.captions < 1 or not self.features:
            raise ValueError(
                f"captions, features: expected at least one each, got {self.captions} and {len(self.features)}"
            )

    def survey(self) -> Survey:
        """Return the counts of the bulk job; every candidate is kept, since the first one is measured too."""
        candidates, guided = self.drawing.candidates, RequestOptions.of(self.drawing, keep=1, seed=0).guided
        images = candidates * self.captions
        return Survey(self.captions, "", {candidates: self.captions}, images, candidates, guided, False, ())


@dataclass(frozen=True)
class SampledFindings:
    """Measurements of sampled images: of first candidates and of CLIP's choices, by the names of ``groups``.

    ``diversity`` is that of the candidates of a prompt, empty without LPIPS.
    """

    prompts: int
    by_features: Mapping[str, Mapping[str, tuple[Measurement, ...]]]
    by_clip: Mapping[str, tuple[Measurement, ...]]
    diversity: tuple[Measurement, ...]
    plots: tuple[Plot, ...]
    images: tuple[ShownImages, ...]

    def to_json(self) -> JsonObject:
        """Return the measurements by group, network and name."""
        out: JsonObject = {"prompts": self.prompts}
        for group in dict.fromkeys((*self.by_features, *self.by_clip)):
            parts: dict[str, tuple[Measurement, ...]] = {**self.by_features.get(group, {})}
            if group in self.by_clip:
                parts["captions"] = self.by_clip[group]
            out[group] = {name: {one.name: one.to_json() for one in listed} for name, listed in parts.items()}
        if self.diversity:
            out["candidates"] = {one.name: one.to_json() for one in self.diversity}
        return out

    def panel(self) -> Panel:
        """Return the panel of the page."""
        figures = [
            figure_of(f"{group}.{name}", one, f"{GROUPS[group]}, {name}: ")
            for group, parts in self.by_features.items()
            for name, listed in parts.items()
            for one in listed
        ]
        figures += [
            figure_of(f"{group}.captions", one, f"{GROUPS[group]}, judging CLIP: ")
            for group, listed in self.by_clip.items()
            for one in listed
        ]
        figures += [figure_of("candidates", one) for one in self.diversity]
        return Panel(
            "Images of held-out captions",
            f"One image of each of {self.prompts:,} held-out captions, against the held-out images. The networks that "
            "judge did not rank the candidates.",
            tuple(figures),
            plots=self.plots,
            images=self.images,
        )


GROUPS = {"first": "first candidate", "chosen": "CLIP's choice"}


@dataclass
class _Group:
    """Features and scores of the sampled images of one kind, and the first of the images."""

    found: FeatureStream
    scores: CaptionScores | None
    kept: dict[int, tuple[np.ndarray, str]] = field(default_factory=dict)

    def update(self, batch: NumberedImages) -> None:
        self.found.update(batch)
        if self.scores is not None:
            self.scores.update(batch)
        for number, image, captions in zip(batch.numbers.tolist(), batch.images, batch.captions, strict=True):
            if number < KEPT:
                self.kept[number] = (image.copy(), captions[0])


def evaluate_images(
    engine: BulkEngine,
    batches: Iterable[CaptionedBatch],
    extractors: Mapping[str, FeatureExtractor],
    judge: TextImageEncoder | None,
    config: EvaluateImages,
    say: Callable[[str], None],
    lpips: ImageDistance | None = None,
) -> SampledFindings:
    """Sample and measure; ``batches`` are the held-out images, and ``extractors`` those of ``config.features``.

    All processes sample the same images on a shared mesh.
    """
    reference = FeatureStream(tuple(extractors.values()))
    requests = _requests(batches, reference, config)
    groups: dict[str, _Group] = {}
    diverse = None if lpips is None else (lpips, ScoreMeans((DIVERSITY,), lpips.name))
    prompts = 0
    for drawn in _in_batches(engine.draw(requests)):
        for name, one in _images_of(drawn).items():
            if name not in groups:
                scores = None if judge is None else CaptionScores(judge)
                found = FeatureStream(tuple(extractors.values()), config.inception_score)
                groups[name] = _Group(found, scores)
            groups[name].update(one)
        if diverse is not None:
            numbers, candidates = np.array([one.number for one in drawn]), np.stack([one.pixels for one in drawn])
            diverse[1].update(Scores(numbers, {DIVERSITY: diversity(candidates, diverse[0])}))
        prompts += len(drawn)
        if prompts % (10 * AMONG) == 0:
            say(f"{prompts:,} prompts sampled")
    if not groups:
        raise UserError("data: expected held-out captions to sample images of, got none")
    by_features: dict[str, dict[str, tuple[Measurement, ...]]] = {}
    for name, group in groups.items():
        pairs = zip(extractors, reference.sets, group.found.sets, strict=True)
        compared = {key: compare(real, sampled, config.distances) for key, real, sampled in pairs}
        scores_of = dict(zip(extractors, group.found.class_scores(merge=False), strict=True))
        by_features[name] = {key: (*listed, *scores_of[key]) for key, listed in compared.items()}
        for key, listed in by_features[name].items():
            say(f"{GROUPS[name]}, {key}: {summary(listed)}")
    by_clip = {name: one.scores.means() for name, one in groups.items() if one.scores is not None}
    for name, listed in by_clip.items():
        say(f"{GROUPS[name]}, judging CLIP: {summary(listed)}")
    farthest = {name: _farthest(group, reference.sets[0], config.shown) for name, group in groups.items()}
    label = f"distance to the nearest real image, {reference.sets[0].features.split()[0]}"
    plot = cumulative_plot("images up to a distance", label, {GROUPS[name]: one[1] for name, one in farthest.items()})
    shown = tuple(
        ShownImages(f"{GROUPS[name]}: the farthest of {len(groups[name].kept):,} from the real images first", one[0])
        for name, one in farthest.items()
    )
    diverse_by = () if diverse is None else diverse[1].result()
    if diverse_by:
        say(f"candidates: {summary(diverse_by)}")
    return SampledFindings(prompts, by_features, by_clip, diverse_by, (plot,), shown)


def _requests(
    batches: Iterable[CaptionedBatch], reference: FeatureStream, config: EvaluateImages
) -> Iterator[NumberedRequest]:
    """Yield a request for each held-out caption, and add the images to ``reference`` on the way."""
    number = 0
    options = RequestOptions.of(config.drawing, keep=config.drawing.candidates, seed=config.seed)
    for batch in batches:
        count = min(len(batch["caption"]), config.captions - number)
        if not count:
            return
        numbers = np.arange(number, number + count)
        captions = batch["caption"][:count]
        reference.update(NumberedImages(numbers, np.stack(batch["image"][:count]), tuple((one,) for one in captions)))
        for caption in captions:
            yield NumberedRequest(number, Request(caption, replace(options, seed=config.seed + number)))
            number += 1


def _in_batches(drawn: Iterator[DrawnPrompt]) -> Iterator[list[DrawnPrompt]]:
    group: list[DrawnPrompt] = []
    for one in drawn:
        group.append(one)
        if len(group) == AMONG:
            yield group
            group = []
    if group:
        yield group


def _images_of(drawn: list[DrawnPrompt]) -> dict[str, NumberedImages]:
    """Return the first candidates, and CLIP's choices if there is a CLIP and a choice."""
    numbers = np.array([one.number for one in drawn], np.int64)
    captions = tuple((str(one.request.prompt),) for one in drawn)
    first = np.stack([one.pixels[int(np.argmin(one.chosen))] for one in drawn])
    out = {"first": NumberedImages(numbers, first, captions)}
    if len(drawn[0].chosen) > 1 and drawn[0].scores is not None:
        out["chosen"] = NumberedImages(numbers, np.stack([one.pixels[0] for one in drawn]), captions)
    return out


def _farthest(group: _Group, reference: FeatureSet, shown: int) -> tuple[tuple[ShownImage, ...], np.ndarray]:
    """Return the kept images that are farthest from the real ones, and the distances of all rows."""
    found = group.found.sets[0].rows()
    rows, distances = found.numbers, nearest(found.features, reference.rows().features)[0]
    order = [i for i in np.argsort(-distances, kind="stable") if int(rows[i]) in group.kept][:shown]
    notes = [f"distance {distances[i]:.3g}" for i in order]
    return tuple(ShownImage(*group.kept[int(rows[i])], note) for i, note in zip(order, notes, strict=True)), distances
