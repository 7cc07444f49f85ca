"""The figures of a pipeline trained on captioned pictures of any kind, on pictures that were held out.

There is no reader of such pictures as there is of drawn scenes, so what is drawn is judged by CLIP alone, and the
report says so. Retrieval is measured on true pictures: of ``among`` captions, is the picture's own the first, or one of
the first five (CLIP, arXiv 2103.00020, section 3)?
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.reconstruction import Reconstruction, measure_reconstruction
from dalle_jax.evaluate.report_data import Candidate, Figure, ReconstructedPicture, Sample, SampleGroup
from dalle_jax.evaluate.scenes import Drawing
from dalle_jax.pipelines.autoregressive import Drawn, Pipeline

TOP = (1, 5)


@dataclass(frozen=True)
class EvaluateCaptioned:
    """The first ``captions`` of the held-out images are drawn with ``drawing``; ``shown`` stand in the report.

    Captions are found for images among ``among`` at a time, or among all where fewer images are held out. ``captions``
    and ``shown`` are lowered to the number of held-out images.
    """

    drawing: Drawing
    captions: int = 48
    shown: int = 24
    among: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= self.captions:
            raise ValueError(f"shown: expected 1 to captions ({self.captions}), got {self.shown}")
        if self.among < max(TOP):
            raise ValueError(f"among: expected at least {max(TOP)}, got {self.among}")


@dataclass(frozen=True)
class CaptionedFindings:
    """All that was measured and what is shown of it."""

    reconstruction: Reconstruction
    reconstructed: tuple[ReconstructedPicture, ...]
    samples: SampleGroup
    figures: tuple[Figure, ...]


def fitted(config: EvaluateCaptioned, held_out: int) -> tuple[EvaluateCaptioned, list[str]]:
    """Lower ``captions`` and ``shown`` to the number of held-out images; return a line for each that was."""
    wanted = {"captions": config.captions, "shown": config.shown}
    fitting = {name: min(value, held_out) for name, value in wanted.items()}
    said = [
        f"evaluation.{name}: {value} lowered to {held_out}, since so many images are held out"
        for name, value in wanted.items()
        if value > held_out
    ]
    return replace(config, captions=fitting["captions"], shown=fitting["shown"]), said


def retrieved_among(similarity: Float[np.ndarray, "n m"], captions: list[str], top: int) -> Float[np.ndarray, " n"]:
    """Whether for picture i (row) a caption that reads as its own is among the ``top`` most similar: 0 or 1 each."""
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    return np.array([any(captions[j] == captions[i] for j in row) for i, row in enumerate(best)], float)


def evaluate_captioned(
    pipeline: Pipeline, config: EvaluateCaptioned, batches: Iterable[dict[str, list[Any]]], say: Callable[[str], None]
) -> CaptionedFindings:
    """Measure on ``batches`` of held-out examples, at least one (data/loader.py); needs a CLIP."""
    pictures: list[np.ndarray] = []
    captions: list[str] = []
    for batch in batches:
        pixels = np.stack(batch["image"])
        if pixels.shape[1:3] != (pipeline.side, pipeline.side):
            raise UserError(f"expected held-out pictures of {pipeline.side} px, the model's, got {pixels.shape[1:3]}")
        pictures.append(pixels)
        captions += batch["caption"]
    config, lowered = fitted(config, len(captions))
    for line in lowered:
        say(line)
    originals = np.concatenate(pictures)
    among = min(config.among, len(captions))
    found = _retrieved(pipeline, originals, captions, among)
    copies = pipeline.reconstruct(originals)
    reconstruction = measure_reconstruction(originals, copies)
    say(f"reconstruction {reconstruction.psnr:.1f} dB over {len(originals)} held-out pictures")
    nats = pipeline.nats(originals, captions)
    shuffled = np.random.default_rng(config.seed).permutation(len(captions))
    other = pipeline.nats(originals, [captions[i] for i in shuffled])
    drawn = pipeline.draw(config.drawing.requests(tuple(captions[: config.captions]), config.seed))
    figures = (
        _figure("clip.retrieval_top1", "CLIP finds the caption", found[1], f"of a held-out picture, of {among}"),
        _figure("clip.retrieval_top5", "… among its first five", found[5], f"of a held-out picture, of {among}"),
        Figure("transformer.image_nll", "Nats per code", float(nats.mean()), "nats", "given the picture’s caption"),
        Figure("transformer.image_nll_other", "… another’s caption", float(other.mean()), "nats", "captions exchanged"),
        *_agreement(pipeline, drawn, captions[: config.among]),
    )
    for figure in figures:
        say(f"{figure.label}: " + ("not measured" if figure.value is None else f"{figure.value:.4g}"))
    shown = [ReconstructedPicture(originals[i], copies[i], captions[i]) for i in range(config.shown)]
    group = _group("Captions of held-out pictures", drawn[: config.shown])
    return CaptionedFindings(reconstruction, tuple(shown), group, figures)


def draw_trained_captions(pipeline: Pipeline, config: EvaluateCaptioned, captions: list[str]) -> SampleGroup:
    """Draw captions of the training images, for a report where no images are held out."""
    drawn = pipeline.draw(config.drawing.requests(tuple(captions), config.seed))
    return _group("Captions of images that were trained on, since none are held out", drawn)


def _retrieved(
    pipeline: Pipeline, images: UInt8[np.ndarray, "N H W 3"], captions: list[str], among: int
) -> dict[int, Float[np.ndarray, " N"] | None]:
    """Return for each of ``TOP`` whether each image's caption is found; None where it is one of so few anyway.

    The last images are compared with captions of the first too, so that every image has ``among`` captions.
    """
    found: dict[int, list[np.ndarray]] = {top: [] for top in TOP if top < among}
    for start in range(0, len(captions), among):
        own = range(start, min(start + among, len(captions)))
        texts = [captions[i] for i in (*own, *range(among - len(own)))]
        similarity = pipeline.similarity(images[own.start : own.stop], texts)
        for top, outcomes in found.items():
            outcomes.append(retrieved_among(similarity, texts, top))
    return {top: np.concatenate(found[top]) if top in found else None for top in TOP}


def _figure(path: str, label: str, outcomes: np.ndarray | None, note: str) -> Figure:
    return Figure(path, label, None if outcomes is None else float(outcomes.mean()), "percent", note)


def _agreement(pipeline: Pipeline, drawn: list[Drawn], captions: list[str]) -> tuple[Figure, ...]:
    """Return how often CLIP finds the caption that an image was drawn for among others; of one caption, nothing."""
    figures = []
    for name, label, pick in (("first", "Drawn, first candidate", False), ("chosen", "Drawn, CLIP’s choice", True)):
        pictures = np.stack([one.candidates[one.chosen[0] if pick else 0] for one in drawn])
        similarity = pipeline.similarity(pictures, captions)
        best = similarity.argmax(axis=1)
        right = np.array([captions[i] == one.prompt for i, one in zip(best, drawn, strict=True)])
        note = f"CLIP finds its caption, of {len(captions)}"
        figures.append(_figure(f"drawn.{name}_found", label, right if len(captions) > 1 else None, note))
    return tuple(figures)


def _group(title: str, drawn: list[Drawn]) -> SampleGroup:
    samples = []
    for one in drawn:
        scores = one.candidate_scores
        first, chosen = (
            Candidate(one.candidates[i], index=int(i), score=None if scores is None else float(scores[i]))
            for i in (0, one.chosen[0])
        )
        samples.append(Sample(one.prompt, first, chosen, len(one.candidates)))
    return SampleGroup(title, tuple(samples))
