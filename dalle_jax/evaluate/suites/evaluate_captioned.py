"""Evaluation of a pipeline trained on captioned images of any kind, on held-out images.

Generated images are scored by CLIP only, since the scene reader cannot read them; the report states this. Retrieval is
measured on real images: among ``among`` captions, is the image's own the most similar, or one of the five most
similar (CLIP, arXiv 2103.00020, section 3)?
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from dalle_jax.arrays import Bool, Float, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.reconstruction import Reconstruction, measure_reconstruction
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.findings import Candidate, ReconstructedImage, Sample, SampleGroup
from dalle_jax.evaluate.suites.panels import Panel, PanelFigure, ShownImage, ShownImages
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler, Likelihood, Reconstructor, TextImageEncoder
from dalle_jax.pipelines.request import Generation

TOP = (1, 5)


class CaptionedBatch(TypedDict):
    """Held-out examples: images, uint8 [H W 3] each, and one caption per image."""

    image: list[np.ndarray]
    caption: list[str]


@dataclass(frozen=True)
class EvaluateCaptioned:
    """Evaluation on held-out images: generates images for ``captions`` of their captions; a report shows ``shown``.

    Retrieval compares each image with ``among`` captions, or with all if fewer images are held out. ``captions`` and
    ``shown`` are lowered to the number of held-out images.
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
    candidate, CLIP's choice) whose prompt is the most similar caption of ``found_among``. A share is None if there are
    so few captions that the right one is always found.
    """

    reconstruction: Reconstruction
    reconstructed: tuple[ReconstructedImage, ...]
    samples: SampleGroup
    retrieval_top1: float | None
    retrieval_top5: float | None
    retrieval_among: int
    image_nll: float
    image_nll_other: float
    first_found: float | None
    chosen_found: float | None
    found_among: int

    def scalars(self) -> dict[str, float | None]:
        """Return the metrics of the transformer and of CLIP by their dotted keys in ``metrics.json``."""
        return {
            "clip.retrieval_top1": self.retrieval_top1,
            "clip.retrieval_top5": self.retrieval_top5,
            "transformer.image_nll": self.image_nll,
            "transformer.image_nll_other": self.image_nll_other,
            "drawn.first_found": self.first_found,
            "drawn.chosen_found": self.chosen_found,
        }

    def to_json(self) -> dict[str, object]:
        """Return all metrics as ``evaluation.json`` holds them."""
        return {"reconstruction": self.reconstruction.to_json(), **self.scalars()}

    def panel(self) -> Panel:
        """Return the panel of the page. The images are CLIP's choices, the least similar to their prompt first."""
        chosen = [(one.caption, one.chosen or one.first) for one in self.samples.samples]
        ordered = sorted(chosen, key=lambda pair: pair[1].score or 0.0)
        among = {"clip": self.retrieval_among, "drawn": self.found_among}
        labels = {
            "clip.retrieval_top1": "Held-out images whose caption is the most similar",
            "clip.retrieval_top5": "Held-out images whose caption is one of the five most similar",
            "transformer.image_nll": "Nats per code, with the image's caption",
            "transformer.image_nll_other": "Nats per code, with another image's caption",
            "drawn.first_found": "First candidates whose prompt is the most similar",
            "drawn.chosen_found": "CLIP's choices whose prompt is the most similar",
        }
        figures = [PanelFigure("reconstruction.psnr", "Reconstruction", self.reconstruction.psnr, "decibel")]
        for key, value in self.scalars().items():
            count = among.get(key.partition(".")[0])
            note = "" if count is None else f"of {count} captions"
            figures.append(PanelFigure(key, labels[key], value, "nats" if count is None else "percent", note=note))
        return Panel(
            "Captioned images",
            "The CLIP that ranks the candidates also judges them here, which is kind to its own choices.",
            tuple(figures),
            images=(
                ShownImages(
                    "CLIP's choices, the least similar to their prompt first",
                    tuple(
                        ShownImage(one.image, caption, "" if one.score is None else f"score {one.score:.3f}")
                        for caption, one in ordered
                    ),
                ),
            ),
        )


def fitted(config: EvaluateCaptioned, held_out: int) -> tuple[EvaluateCaptioned, list[str]]:
    """Lower ``captions`` and ``shown`` to the number of held-out images; return a line for each that was lowered."""
    wanted = {"captions": config.captions, "shown": config.shown}
    fitting = {name: min(value, held_out) for name, value in wanted.items()}
    lines = [
        f"{name}: {value} lowered to {held_out}, the number of held-out images"
        for name, value in wanted.items()
        if value > held_out
    ]
    return replace(config, captions=fitting["captions"], shown=fitting["shown"]), lines


def retrieved_among(similarity: Float[np.ndarray, "n m"], captions: list[str], top: int) -> Float[np.ndarray, " n"]:
    """Return 1 for each image (row) whose own caption is among the ``top`` captions most similar to it, else 0.

    A different column with the same text counts as its own caption.
    """
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    return np.array([any(captions[j] == captions[i] for j in row) for i, row in enumerate(best)], float)


def evaluate_captioned(
    sampler: ImageSampler,
    codec: Reconstructor,
    clip: TextImageEncoder,
    likelihood: Likelihood,
    config: EvaluateCaptioned,
    batches: Iterable[CaptionedBatch],
    say: Callable[[str], None],
) -> CaptionedFindings:
    """Measure on ``batches`` of held-out examples, at least one (data/loader.py); ``say`` takes a line of progress."""
    images: list[np.ndarray] = []
    captions: list[str] = []
    for batch in batches:
        pixels = np.stack(batch["image"])
        if pixels.shape[1:3] != (sampler.side, sampler.side):
            size = pixels.shape[1:3]
            raise UserError(f"held-out images: expected {sampler.side} px a side, the model's size, got {size}")
        images.append(pixels)
        captions += batch["caption"]
    config, lowered = fitted(config, len(captions))
    for line in lowered:
        say(line)
    originals = np.concatenate(images)
    among = min(config.among, len(captions))
    found = _retrieved(clip, originals, captions, among)
    copies = codec.reconstruct(originals)
    reconstruction = measure_reconstruction(originals, copies)
    say(f"reconstruction {reconstruction.psnr:.1f} dB over {len(originals)} held-out images")
    nats = likelihood.nats(originals, captions)
    shuffled = np.random.default_rng(config.seed).permutation(len(captions))
    other = likelihood.nats(originals, [captions[i] for i in shuffled])
    drawn = sampler.draw(config.drawing.requests(tuple(captions[: config.captions]), config.seed))
    compared = captions[: config.among]
    findings = CaptionedFindings(
        reconstruction=reconstruction,
        reconstructed=tuple(ReconstructedImage(originals[i], copies[i], captions[i]) for i in range(config.shown)),
        samples=_group("Captions of held-out images", drawn[: config.shown]),
        retrieval_top1=_share(found[1]),
        retrieval_top5=_share(found[5]),
        retrieval_among=among,
        image_nll=float(nats.mean()),
        image_nll_other=float(other.mean()),
        first_found=_share(_found(clip, drawn, [one.candidates[0] for one in drawn], compared)),
        chosen_found=_share(_found(clip, drawn, [one.candidates[one.chosen[0]] for one in drawn], compared)),
        found_among=len(compared),
    )
    for name, value in findings.scalars().items():
        say(f"{name}: " + ("not measured" if value is None else f"{value:.4g}"))
    return findings


def draw_trained_captions(sampler: ImageSampler, config: EvaluateCaptioned, captions: list[str]) -> SampleGroup:
    """Draw captions of the training images, for a report without held-out images."""
    drawn = sampler.draw(config.drawing.requests(tuple(captions), config.seed))
    return _group("Captions of training images, since none are held out", drawn)


def _retrieved(
    clip: TextImageEncoder, images: UInt8[np.ndarray, "N H W 3"], captions: list[str], among: int
) -> dict[int, Float[np.ndarray, " N"] | None]:
    """Compute top-k retrieval of each image's caption among ``among`` captions, for each k in ``TOP``.

    Images are compared with the captions of their own group of ``among`` images. The last group is filled up with the
    first captions. The result is None for a k of ``among`` or more.
    """
    found: dict[int, list[np.ndarray]] = {top: [] for top in TOP if top < among}
    for start in range(0, len(captions), among):
        own = range(start, min(start + among, len(captions)))
        texts = [captions[i] for i in (*own, *range(among - len(own)))]
        similarity = clip.similarity(images[own.start : own.stop], texts)
        for top, outcomes in found.items():
            outcomes.append(retrieved_among(similarity, texts, top))
    return {top: np.concatenate(found[top]) if top in found else None for top in TOP}


def _share(outcomes: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"] | None) -> float | None:
    return None if outcomes is None else float(outcomes.mean())


def _found(
    clip: TextImageEncoder, drawn: list[Generation], images: list[np.ndarray], captions: list[str]
) -> Bool[np.ndarray, " n"] | None:
    """Return for which generated images CLIP finds their prompt most similar; None for a single caption."""
    if len(captions) < 2:
        return None
    best = clip.similarity(np.stack(images), captions).argmax(axis=1)
    return np.array([captions[i] == one.prompt for i, one in zip(best, drawn, strict=True)])


def _group(title: str, drawn: list[Generation]) -> SampleGroup:
    samples = []
    for one in drawn:
        scores = one.candidate_scores
        first, chosen = (
            Candidate(one.candidates[i], index=int(i), score=None if scores is None else float(scores[i]))
            for i in (0, one.chosen[0])
        )
        samples.append(Sample(one.prompt, first, chosen, len(one.candidates)))
    return SampleGroup(title, tuple(samples))
