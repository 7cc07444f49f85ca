"""Evaluation of the CLIP vectors that an unCLIP decodes, on scenes: a perfect prior, and positions in the vectors."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.evaluate.metrics.composition import DEFAULT_SPLITS, Cell, evaluation_captions, measure_cell
from dalle_jax.evaluate.metrics.linear_probe import probe_r2
from dalle_jax.evaluate.suites.evaluate_scenes import EvaluateScenes
from dalle_jax.evaluate.suites.pipeline_parts import ImageSampler, TextImageEncoder
from dalle_jax.sampling.autoregressive import image_keys
from dalle_jax.scenes import grammar
from dalle_jax.scenes.perceive import perceive
from dalle_jax.scenes.rendering import render

PROBE_IMAGES = 900
"""Images of level 1 from whose embeddings positions are read; two thirds of them fit the probe."""


@runtime_checkable
class EmbeddingDecoder(ImageSampler, Protocol):
    """A pipeline that decodes CLIP image embeddings (``Unclip``, ``PixelUnclip``)."""

    @property
    def embedder(self) -> TextImageEncoder:
        """The CLIP whose image embeddings it decodes."""
        ...

    def decode(
        self, embeddings: Float[np.ndarray, "B E"], keys: Key[Array, " B"], guidance: float
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Sample one image of each embedding, from the embedding alone."""
        ...


@dataclass(frozen=True)
class PositionProbe:
    """R² of the centre of a lone object's bounding box, read linearly from the embeddings of image and caption."""

    image: tuple[float, float]
    text: tuple[float, float]


def first_cells(sampler: ImageSampler, config: EvaluateScenes) -> list[Cell]:
    """Judge one candidate of each caption of the evaluation."""
    cells = []
    for level in config.levels:
        for split in DEFAULT_SPLITS:
            captions = evaluation_captions(level, split, config.captions, config.seed)
            drawing = replace(config.drawing, candidates=1)
            drawn = sampler.draw(drawing.requests(captions, config.seed))
            images = np.stack([one.candidates for one in drawn])
            cells.append(measure_cell(level, split, captions, images, np.zeros(images.shape[:2], np.float32))[0])
    return cells


def true_vector_cells(sampler: EmbeddingDecoder, config: EvaluateScenes) -> list[Cell]:
    """Judge an image decoded from the CLIP embedding of a rendered image of each caption: a perfect prior."""
    cells = []
    for level in config.levels:
        for split in DEFAULT_SPLITS:
            captions = evaluation_captions(level, split, config.captions, config.seed)
            rng = np.random.default_rng((config.seed, 3, level))
            rendered = np.stack([render(grammar.parse(one), sampler.side, rng) for one in captions])
            vectors, seeds = sampler.embedder.image_vectors(rendered), config.seed + np.arange(len(captions))
            keys = image_keys(jnp.asarray(seeds, jnp.uint32), 1)[:, 0]
            images = sampler.decode(vectors, keys, config.drawing.guidance)[:, None]  # [P 1 H W 3]
            cells.append(measure_cell(level, split, captions, images, np.zeros(images.shape[:2], np.float32))[0])
    return cells


def probe_positions(clip: TextImageEncoder, side: int, seed: int) -> PositionProbe:
    """Measure how well positions, which no caption of level 1 names, are read from image and text embeddings.

    ``side`` is that of the rendered images, CLIP's own.
    """
    rng = np.random.default_rng((seed, 4))
    images: list[np.ndarray] = []
    captions: list[str] = []
    places: list[tuple[float, float]] = []
    while len(images) < PROBE_IMAGES:
        scene = grammar.sample_scene(1, rng, "validation")
        image = render(scene, side, rng)
        objects = perceive(image).objects
        if len(objects) == 1:
            images.append(image)
            captions.append(grammar.caption(scene, rng))
            places.append((objects[0].x, objects[0].y))
    vectors = clip.image_vectors(np.stack(images)), clip.text_vectors(captions)
    image_r2, text_r2 = (probe_r2(one, np.array(places), PROBE_IMAGES * 2 // 3) for one in vectors)
    return PositionProbe((float(image_r2[0]), float(image_r2[1])), (float(text_r2[0]), float(text_r2[1])))
