"""Evaluation of an image tokenizer by its reconstructions: rFD, and PSNR, SSIM, MS-SSIM and LPIPS of each image."""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor, ImageDistance
from dalle_jax.evaluate.metrics.image_pairs import MS_SSIM_SIZE, pair_scores
from dalle_jax.evaluate.metrics.metric import Measurement, merge_over_hosts
from dalle_jax.evaluate.metrics.score_means import ScoreMeans, Scores
from dalle_jax.evaluate.suites.feature_comparison import (
    DEFAULT_DISTANCES,
    DistanceName,
    FeatureStream,
    compare,
    cumulative_plot,
    figure_of,
)
from dalle_jax.evaluate.suites.image_sets import NumberedImages
from dalle_jax.evaluate.suites.panels import JsonObject, Panel, PanelFigure, Plot, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import Reconstructor
from dalle_jax.parallel import hosts

NO_LPIPS = "LPIPS is not measured without its weights; give --lpips DIR, or lpips in a config, of `import lpips`."
GAP = 4
"""White rows between an image and its reconstruction on the page."""


@dataclass(frozen=True)
class EvaluateReconstruction:
    """Evaluation of the image tokenizer of a model on the first ``images`` held-out images of the data, or on all.

    - ``features``: networks whose features of images and reconstructions are compared, as ``evaluate --features``
      names them; ``distances`` are the measurements. With few images leave "fd" out.
    - ``lpips``: the folder of imported LPIPS weights. With None LPIPS is not measured.
    - ``batch``: images that are encoded at once; the page shows the ``shown`` worst of all.
    """

    images: int | None = None
    features: tuple[str, ...] = ("efficientnet-lite0",)
    distances: tuple[DistanceName, ...] = DEFAULT_DISTANCES
    lpips: str | None = None
    batch: int = 64
    shown: int = 24

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.images is not None and self.images < 1):
            raise ValueError(f"images, batch: expected at least 1, got {self.images} and {self.batch}")


@dataclass(frozen=True)
class ReconstructionFindings:
    """Measurements of reconstructions, by extractor and of pairs, and the worst pairs."""

    title: str
    count: int
    by_features: Mapping[str, tuple[Measurement, ...]]
    pairs: tuple[Measurement, ...]
    plots: tuple[Plot, ...]
    worst: ShownImages
    notes: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """Return all measurements with their intervals and counts."""
        parts = {"pairs": self.pairs, **self.by_features}
        figures = {name: {one.name: one.to_json() for one in measured} for name, measured in parts.items()}
        return {"count": self.count, **figures}

    def panel(self) -> Panel:
        """Return the panel of the page."""
        figures: list[PanelFigure] = [figure_of("pairs", one) for one in self.pairs]
        for name, measured in self.by_features.items():
            figures += [figure_of(name, one, f"{name}: ") for one in measured]
        names = sorted({one.features for listed in self.by_features.values() for one in listed})
        seen_by = f" Features: {'; '.join(names)}." if names else ""
        return Panel(
            self.title,
            f"Each of {self.count:,} images beside its reconstruction. rFD is FD with the originals as the reference. "
            f"Intervals resample the images.{seen_by}",
            tuple(figures),
            plots=self.plots,
            images=(self.worst,),
            warnings=self.notes,
        )


@dataclass(frozen=True)
class _Pair:
    """An image, its reconstruction, its caption and its scores."""

    number: int
    both: np.ndarray  # uint8 [2 H W 3]
    caption: str
    scores: Mapping[str, float]

    @property
    def quality(self) -> float:
        """The figure that orders pairs: LPIPS if it is known, or else SSIM."""
        return -self.scores["lpips"] if "lpips" in self.scores else self.scores["ssim"]


def evaluate_reconstruction(
    title: str,
    batches: Iterable[NumberedImages],
    codec: Reconstructor,
    extractors: Mapping[str, FeatureExtractor],
    lpips: ImageDistance | None,
    config: EvaluateReconstruction,
    say: Callable[[str], None],
    merge: bool = False,
) -> ReconstructionFindings:
    """Reconstruct images and measure. With ``merge`` each process has images of its own; else all have the same.

    Raise ``UserError`` for too few images.
    """
    sides = [FeatureStream(tuple(extractors.values())) for _ in range(2)]
    scores: ScoreMeans | None = None
    worst: list[_Pair] = []
    done = 0
    for batch in batches:
        copies = codec.reconstruct(batch.images)
        for side, images in zip(sides, (batch.images, copies), strict=True):
            side.update(replace(batch, images=images))
        found = pair_scores(batch.images, copies, lpips)
        scores = scores or ScoreMeans(tuple(sorted(found)))
        scores.update(Scores(batch.numbers, found))
        worst = _worst([*worst, *_pairs(batch, copies, found)], config.shown)
        done += len(batch.numbers)
        if done % 1000 < len(batch.numbers):
            say(f"{done:,} images reconstructed")
    if merge:
        scores, worst = _merged(scores, worst, config.shown)
        originals, reconstructed = (one.merged() for one in sides)
    else:
        originals, reconstructed = (one.sets for one in sides)
    if scores is None:
        raise UserError(f"{title}: expected images to reconstruct, got none")
    by_features: dict[str, tuple[Measurement, ...]] = {}
    for name, real, copied in zip(extractors, originals, reconstructed, strict=True):
        found_here = compare(real, copied, config.distances)
        by_features[name] = tuple(replace(one, name="rfd") if one.name == "fd" else one for one in found_here)
    pairs = tuple(_named(one, lpips) for one in scores.result())
    for name, listed in (("pairs", pairs), *by_features.items()):
        say(f"{name}: {', '.join(f'{one.name} {one.value:.4g}' for one in listed)}")
    notes = [] if lpips is not None else [NO_LPIPS]
    if "ms_ssim" not in scores.names:
        notes.append(f"MS-SSIM is not measured: it needs images of at least {MS_SSIM_SIZE} px a side.")
    for line in notes:
        say(line)
    values = {name: np.array(list(scores.by_number(name).values())) for name in ("ssim", "psnr")}
    plots = (
        cumulative_plot("images up to an SSIM", "SSIM", {"images": values["ssim"]}),
        cumulative_plot("images up to a PSNR", "PSNR in dB", {"images": values["psnr"]}),
    )
    shown = ShownImages("Originals above their reconstructions, the worst first", tuple(map(_shown, worst)))
    return ReconstructionFindings(title, pairs[0].count, by_features, pairs, plots, shown, tuple(notes))


def _named(measured: Measurement, lpips: ImageDistance | None) -> Measurement:
    """Return the measurement with the name of its network."""
    return measured if measured.name != "lpips" or lpips is None else replace(measured, features=lpips.name)


def _pairs(batch: NumberedImages, copies: np.ndarray, scores: Mapping[str, Float[np.ndarray, " B"]]) -> list[_Pair]:
    return [
        _Pair(
            int(number),
            np.stack([batch.images[row], copies[row]]),
            batch.captions[row][0] if batch.captions[row] else f"number {number}",
            {name: float(found[row]) for name, found in scores.items()},
        )
        for row, number in enumerate(batch.numbers)
    ]


def _worst(pairs: list[_Pair], shown: int) -> list[_Pair]:
    return sorted(pairs, key=lambda one: (one.quality, one.number))[:shown]


def _merged(scores: ScoreMeans | None, worst: list[_Pair], shown: int) -> tuple[ScoreMeans | None, list[_Pair]]:
    """Return the scores and the worst pairs of all processes."""
    names = [json.loads(content) for content in hosts.gather(json.dumps(scores and scores.names).encode())]
    known = next((one for one in names if one), None)
    if known is None:
        return None, []
    packed = io.BytesIO()
    about = json.dumps([[one.number, one.caption, dict(one.scores)] for one in worst]).encode()
    both = np.stack([one.both for one in worst]) if worst else np.zeros(0, np.uint8)
    np.savez(packed, both=both, about=np.frombuffer(about, np.uint8))
    every: list[_Pair] = []
    for content in hosts.gather(packed.getvalue()):
        found = np.load(io.BytesIO(content), allow_pickle=False)
        described = json.loads(bytes(found["about"]))
        every += [
            _Pair(number, one, caption, values)
            for one, (number, caption, values) in zip(found["both"], described, strict=True)
        ]
    return merge_over_hosts(scores or ScoreMeans(tuple(known))), _worst(every, shown)


def _shown(pair: _Pair) -> ShownImage:
    original, copy = pair.both
    gap = np.full((GAP, original.shape[1], 3), 255, np.uint8)
    note = ", ".join(f"{name.upper().replace('_', '-')} {value:.3g}" for name, value in sorted(pair.scores.items()))
    return ShownImage(np.concatenate([original, gap, copy]), pair.caption, note)
