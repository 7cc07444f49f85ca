"""The figures of a pipeline trained on captioned pictures of any kind, on pictures that were held out.

There is no reader of such pictures as there is of drawn scenes, so what is drawn is judged by CLIP alone, and the
report says so. Retrieval is measured on true pictures: of ``among`` captions, is the picture's own the first, or one of
the first five (CLIP, arXiv 2103.00020, section 3)?
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.reconstruction import Reconstruction, measure_reconstruction
from dalle_jax.evaluate.report_data import Candidate, Figure, ReconstructedPicture, Sample, SampleGroup
from dalle_jax.evaluate.scenes import Drawing
from dalle_jax.pipelines.autoregressive import Drawn, Pipeline

TOP = (1, 5)


@dataclass(frozen=True)
class EvaluateCaptioned:
    """The first ``captions`` of the held-out pictures are drawn with ``drawing``; ``shown`` stand in the report.

    Captions are found for pictures among ``among`` at a time; held-out pictures beyond a multiple of it are left out.
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


def retrieved_among(similarity: Float[np.ndarray, "n n"], captions: list[str], top: int) -> Float[np.ndarray, " n"]:
    """Whether for picture i (row) a caption that reads as its own is among the ``top`` most similar: 0 or 1 each."""
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    return np.array([any(captions[j] == captions[i] for j in row) for i, row in enumerate(best)], float)


def evaluate_captioned(
    pipeline: Pipeline, config: EvaluateCaptioned, batches: Iterable[dict[str, list[Any]]], say: Callable[[str], None]
) -> CaptionedFindings:
    """Measures on ``batches`` of ``config.among`` held-out examples each (data/loader.py); needs a CLIP."""
    pictures, captions = [], []
    found: dict[int, list[np.ndarray]] = {top: [] for top in TOP}
    for batch in batches:
        pixels = np.stack(batch["image"])
        if pixels.shape[1:3] != (pipeline.side, pipeline.side):
            raise UserError(f"expected held-out pictures of {pipeline.side} px, the model's, got {pixels.shape[1:3]}")
        similarity = pipeline.similarity(pixels, batch["caption"])
        for top in TOP:
            found[top].append(retrieved_among(similarity, batch["caption"], top))
        pictures.append(pixels)
        captions += batch["caption"]
    if len(captions) < config.captions:
        raise UserError(
            f"evaluations.NAME.captions: expected at most {len(captions)}, the held-out pictures there are, "
            f"got {config.captions}"
        )
    originals = np.concatenate(pictures)
    copies = pipeline.reconstruct(originals)
    reconstruction = measure_reconstruction(originals, copies)
    say(f"reconstruction {reconstruction.psnr:.1f} dB over {len(originals)} held-out pictures")
    nats = pipeline.nats(originals, captions)
    shuffled = np.random.default_rng(config.seed).permutation(len(captions))
    other = pipeline.nats(originals, [captions[i] for i in shuffled])
    drawn = pipeline.draw(config.drawing.requests(tuple(captions[: config.captions]), config.seed))
    figures = (
        _figure("clip.retrieval_top1", "CLIP finds the caption", found[1], f"of a held-out picture, of {config.among}"),
        _figure("clip.retrieval_top5", "… among its first five", found[5], f"of a held-out picture, of {config.among}"),
        Figure("transformer.image_nll", "Nats per code", float(nats.mean()), "nats", "given the picture’s caption"),
        Figure("transformer.image_nll_other", "… another’s caption", float(other.mean()), "nats", "captions exchanged"),
        *_agreement(pipeline, drawn, captions[: config.among]),
    )
    for figure in figures:
        say(f"{figure.label}: {figure.value:.4g}")
    shown = [ReconstructedPicture(originals[i], copies[i], captions[i]) for i in range(config.shown)]
    return CaptionedFindings(reconstruction, tuple(shown), _group(drawn[: config.shown]), figures)


def _figure(path: str, label: str, outcomes: list[np.ndarray], note: str) -> Figure:
    return Figure(path, label, float(np.concatenate(outcomes).mean()), "percent", note)


def _agreement(pipeline: Pipeline, drawn: list[Drawn], captions: list[str]) -> tuple[Figure, ...]:
    """Of drawn pictures: does CLIP find the caption that they were drawn for among those of others?"""
    figures = []
    for name, label, pick in (("first", "Drawn, first candidate", False), ("chosen", "Drawn, CLIP’s choice", True)):
        pictures = np.stack([one.candidates[one.chosen[0] if pick else 0] for one in drawn])
        similarity = pipeline.similarity(pictures, captions)
        right = [captions[int(row.argmax())] == one.prompt for row, one in zip(similarity, drawn, strict=True)]
        note = f"CLIP finds its caption, of {len(captions)}"
        figures.append(Figure(f"drawn.{name}_found", label, float(np.mean(right)), "percent", note))
    return tuple(figures)


def _group(drawn: list[Drawn]) -> SampleGroup:
    samples = []
    for one in drawn:
        scores = one.candidate_scores
        first, chosen = (
            Candidate(one.candidates[i], index=int(i), score=None if scores is None else float(scores[i]))
            for i in (0, one.chosen[0])
        )
        samples.append(Sample(one.prompt, first, chosen, len(one.candidates)))
    return SampleGroup("Captions of held-out pictures", tuple(samples))
