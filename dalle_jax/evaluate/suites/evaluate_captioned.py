"""Evaluation of a pipeline trained on captioned images of any kind, on held-out images.

No reader judges such images, so generated images are judged by CLIP alone, and the report says so. Retrieval is
measured on real images: among ``among`` captions, is the image's own the most similar, or one of the five most
similar (CLIP, arXiv 2103.00020, section 3)?
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.reconstruction import Reconstruction, measure_reconstruction
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.findings import Candidate, ReconstructedImage, Sample, SampleGroup
from dalle_jax.pipelines.autoregressive import Drawn, Pipeline

TOP = (1, 5)


class CaptionedBatch(TypedDict):
    """Held-out examples: images, uint8 [H W 3] each, and one caption per image."""

    image: list[np.ndarray]
    caption: list[str]


@dataclass(frozen=True)
class EvaluateCaptioned:
    """Evaluation on held-out images: generates images for ``captions`` of their captions; a report shows ``shown``.

    Retrieval compares each image with the captions of its group of ``among`` images. Held-out images beyond a multiple
    of ``among`` are left out.
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
    """Measurements on held-out images, and the images that a report shows.

    ``retrieval_top1``, ``retrieval_top5``: shares of images whose own caption is the most similar, or among the five
    most similar, of ``retrieval_among``. ``image_nll``: nats per image code given the image's caption;
    ``image_nll_other``: given another image's. ``first_found``, ``chosen_found``: shares of generated images (first
    candidate, CLIP's choice) whose prompt is the most similar caption of ``found_among``.
    """

    reconstruction: Reconstruction
    reconstructed: tuple[ReconstructedImage, ...]
    samples: SampleGroup
    retrieval_top1: float
    retrieval_top5: float
    retrieval_among: int
    image_nll: float
    image_nll_other: float
    first_found: float
    chosen_found: float
    found_among: int

    def scalars(self) -> dict[str, float]:
        """Return each number of the transformer and of CLIP under its dotted key in ``metrics.json``."""
        return {
            "clip.retrieval_top1": self.retrieval_top1,
            "clip.retrieval_top5": self.retrieval_top5,
            "transformer.image_nll": self.image_nll,
            "transformer.image_nll_other": self.image_nll_other,
            "drawn.first_found": self.first_found,
            "drawn.chosen_found": self.chosen_found,
        }

    def to_json(self) -> dict[str, object]:
        """Return all numbers as ``evaluation.json`` holds them."""
        return {"reconstruction": self.reconstruction.to_json(), **self.scalars()}


def retrieved_among(similarity: Float[np.ndarray, "n n"], captions: list[str], top: int) -> Float[np.ndarray, " n"]:
    """Return 1 for each image (row) with a caption equal to its own among its ``top`` most similar, else 0."""
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    return np.array([any(captions[j] == captions[i] for j in row) for i, row in enumerate(best)], float)


def evaluate_captioned(
    pipeline: Pipeline, config: EvaluateCaptioned, batches: Iterable[CaptionedBatch], say: Callable[[str], None]
) -> CaptionedFindings:
    """Measure on ``batches`` of ``config.among`` held-out examples each (data/loader.py); needs a CLIP."""
    images, captions = [], []
    found: dict[int, list[np.ndarray]] = {top: [] for top in TOP}
    for batch in batches:
        pixels = np.stack(batch["image"])
        if pixels.shape[1:3] != (pipeline.side, pipeline.side):
            size = pixels.shape[1:3]
            raise UserError(f"held-out images: expected {pipeline.side} px a side, the model's size, got {size}")
        similarity = pipeline.similarity(pixels, batch["caption"])
        for top in TOP:
            found[top].append(retrieved_among(similarity, batch["caption"], top))
        images.append(pixels)
        captions += batch["caption"]
    if len(captions) < config.captions:
        raise UserError(
            f"evaluation.captions: expected at most {len(captions)}, the number of held-out images, "
            f"got {config.captions}"
        )
    originals = np.concatenate(images)
    copies = pipeline.reconstruct(originals)
    reconstruction = measure_reconstruction(originals, copies)
    say(f"reconstruction {reconstruction.psnr:.1f} dB over {len(originals)} held-out images")
    nats = pipeline.nats(originals, captions)
    shuffled = np.random.default_rng(config.seed).permutation(len(captions))
    other = pipeline.nats(originals, [captions[i] for i in shuffled])
    drawn = pipeline.draw(config.drawing.requests(tuple(captions[: config.captions]), config.seed))
    among = captions[: config.among]
    findings = CaptionedFindings(
        reconstruction=reconstruction,
        reconstructed=tuple(ReconstructedImage(originals[i], copies[i], captions[i]) for i in range(config.shown)),
        samples=_group(drawn[: config.shown]),
        retrieval_top1=float(np.concatenate(found[1]).mean()),
        retrieval_top5=float(np.concatenate(found[5]).mean()),
        retrieval_among=config.among,
        image_nll=float(nats.mean()),
        image_nll_other=float(other.mean()),
        first_found=_found(pipeline, drawn, [one.candidates[0] for one in drawn], among),
        chosen_found=_found(pipeline, drawn, [one.candidates[one.chosen[0]] for one in drawn], among),
        found_among=len(among),
    )
    for name, value in findings.scalars().items():
        say(f"{name}: {value:.4g}")
    return findings


def _found(pipeline: Pipeline, drawn: list[Drawn], images: list[np.ndarray], captions: list[str]) -> float:
    """Return the share of generated images to which CLIP finds their own prompt most similar among ``captions``."""
    similarity = pipeline.similarity(np.stack(images), captions)
    right = [captions[int(row.argmax())] == one.prompt for row, one in zip(similarity, drawn, strict=True)]
    return float(np.mean(right))


def _group(drawn: list[Drawn]) -> SampleGroup:
    samples = []
    for one in drawn:
        scores = one.candidate_scores
        first, chosen = (
            Candidate(one.candidates[i], index=int(i), score=None if scores is None else float(scores[i]))
            for i in (0, one.chosen[0])
        )
        samples.append(Sample(one.prompt, first, chosen, len(one.candidates)))
    return SampleGroup("Captions of held-out images", tuple(samples))
