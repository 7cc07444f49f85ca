"""LPIPS diversity of the images of one caption, such as the candidates that ``sample`` writes for a prompt."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import ImageDistance
from dalle_jax.evaluate.metrics.image_pairs import diversity
from dalle_jax.evaluate.metrics.metric import Measurement, merge_over_hosts
from dalle_jax.evaluate.metrics.score_means import ScoreMeans, Scores
from dalle_jax.evaluate.suites.image_sets import ImageSet, NumberedImages
from dalle_jax.evaluate.suites.panels import ShownImage, ShownImages
from dalle_jax.parallel import hosts

TOGETHER = 96
"""Images of one call, so that prompts of few candidates share it."""
DIVERSITY = "lpips_diversity"


@dataclass(frozen=True)
class DiversityFindings:
    """The mean diversity of the captions, and the images of the least diverse captions."""

    measured: tuple[Measurement, ...]
    least: ShownImages


class CaptionGroups:
    """Images by their first captions. They are read a second time, since those of a caption need not follow."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[int]] = defaultdict(list)

    def update(self, batch: NumberedImages) -> None:
        """Note the captions of images."""
        for number, captions in zip(batch.numbers.tolist(), batch.captions, strict=True):
            if captions:
                self._numbers[captions[0]].append(number)

    def measure(
        self, images: ImageSet, distance: ImageDistance, shown: int, say: Callable[[str], None]
    ) -> DiversityFindings:
        """Measure; all processes must call this together. Raise ``UserError`` if no caption has two images."""
        groups = self._of_all_processes()
        if not groups:
            raise UserError(f"{DIVERSITY}: expected two images or more of one caption, got none in {images.name}")
        process, processes = hosts.process_index_and_count()
        scores = ScoreMeans((DIVERSITY,), distance.name)
        own = groups[process::processes]
        done = 0
        for batch in _together(own):
            pixels = np.stack([images.read(numbers).images for numbers in batch])  # [P M H W 3]
            firsts = np.array([numbers[0] for numbers in batch], np.int64)
            scores.update(Scores(firsts, {DIVERSITY: diversity(pixels, distance)}))
            done += len(batch)
            if done % 100 < len(batch):
                say(f"{images.name}: diversity of {done:,} of {len(own):,} captions measured")
        scores = merge_over_hosts(scores)
        return DiversityFindings(scores.result(), _least(images, groups, scores, shown))

    def _of_all_processes(self) -> list[list[int]]:
        """Return the numbers of each caption's images, of captions with two or more."""
        joined: dict[str, list[int]] = defaultdict(list)
        for content in hosts.gather(json.dumps(self._numbers).encode()):
            for caption, numbers in json.loads(content).items():
                joined[caption] += numbers
        return sorted((sorted(numbers) for numbers in joined.values() if len(numbers) > 1), key=lambda one: one[0])


def _together(groups: list[list[int]]) -> Iterator[list[list[int]]]:
    """Yield groups of one size, about ``TOGETHER`` images at once."""
    by_size = sorted(groups, key=len)
    for size, same in itertools.groupby(by_size, key=len):
        listed, at_once = list(same), max(1, TOGETHER // size)
        for start in range(0, len(listed), at_once):
            yield listed[start : start + at_once]


def _least(images: ImageSet, groups: list[list[int]], scores: ScoreMeans, shown: int) -> ShownImages:
    numbers = {one[0]: one for one in groups}
    out: list[ShownImage] = []
    for first, score in scores.by_number(DIVERSITY).items():
        if len(out) >= shown:
            break
        found = images.read(numbers[first])
        for image, captions in zip(found.images, found.captions, strict=True):
            out.append(ShownImage(image, captions[0], f"diversity of its prompt {score:.3g}"))
    return ShownImages("Prompts whose images are the most alike first", tuple(out[:shown]))
