"""A second scene reader with another method, which checks that images are not right for the first reader alone.

It shares no step with ``perceive``:

1. A small image is enlarged to ``SIDE`` pixels. Each pixel has the nearest colour of the palette, or that of the plain
   background.
2. The background is the most frequent of them at the border; connected other pixels are objects.
3. The colour of an object is the most frequent one of its inner pixels.
4. Its mask, stretched to a square, has the shape of the nearest of ``EXAMPLES`` masks of rendered objects.

It does not read words, so it is for levels 1 to 5.
"""

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage

from dalle_jax.scenes.grammar import parse, sample_scene
from dalle_jax.scenes.judge import Judgement, judge_scene
from dalle_jax.scenes.perceive import UNKNOWN, DetectedObject, DetectedScene
from dalle_jax.scenes.reader_accuracy import blur_and_noise
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import COLOURS, PLAIN

LEVELS = (1, 2, 3, 4, 5)
"""The levels whose scenes it reads: those without words."""
SIDE = 64
MIN_AREA = 0.012
"""Smaller components, as a share of the image, are noise."""
GRID = 12
"""Cells of a stretched mask along one side."""
FARTHEST = 0.054
"""The mean squared difference to the nearest rendered mask from which a shape is unknown.

With this value it accepts 30 % of pairs of rendered objects that each have a bite or a lump, the first reader 28 %.
"""
LEAST_SHARE = 0.5
"""The share of an object's inner pixels that must have its colour."""
LONGEST = 1.5
"""The ratio of the sides of a bounding box from which a shape is unknown."""
BIG = 0.48
"""The extent from which an object is big, between the diameters 0.34 and 0.62 of ``rendering``."""
EXAMPLES = 1200
"""The number of masks of rendered objects."""

_NAMES = (*COLOURS, "plain")
_PALETTE = np.array([*COLOURS.values(), PLAIN], np.float32)


def judge_again(image: UInt8[np.ndarray, "size size 3"], caption: str) -> Judgement:
    """Check a caption against an image. Raises ``UserError`` for a caption outside the grammar."""
    return judge_scene(perceive_again(image), parse(caption), caption)


def perceive_again(image: UInt8[np.ndarray, "size size 3"]) -> DetectedScene:
    """Detect the scene in an image, without words. Objects are ordered by their first pixel, row by row."""
    background, found = _objects(image)
    masks, names = _examples()
    objects = []
    for mask, colour, place in found:
        distances = np.square(masks - _stretched(mask)).mean(axis=(1, 2))
        known = distances.min() < FARTHEST and max(mask.shape) < LONGEST * min(mask.shape)
        shape = names[distances.argmin()] if known else UNKNOWN
        objects.append(_located(mask, place, colour, shape, max(SIDE, len(image))))
    return DetectedScene(background, tuple(objects))


def _located(mask: np.ndarray, place: tuple[slice, slice], colour: str, shape: str, size: int) -> DetectedObject:
    rows, columns = np.nonzero(mask)
    x = (place[1].start + columns.mean() + 0.5) / size
    y = (place[0].start + rows.mean() + 0.5) / size
    longest = max(mask.shape) / size
    # ``DetectedObject.size`` compares the extent with the threshold of the first reader.
    return DetectedObject(colour, shape, float(x), float(y), extent=1.0 if longest > BIG else 0.0)


def _objects(
    image: UInt8[np.ndarray, "size size 3"],
) -> tuple[str, list[tuple[Bool[np.ndarray, "h w"], str, tuple[slice, slice]]]]:
    """Return the background's name, and the mask, colour and bounding box of each object."""
    if len(image) < SIDE:
        image = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    labels = _nearest_colours(image)  # [H W]
    border = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    background = int(np.bincount(border).argmax())
    components, _ = ndimage.label(labels != background)
    inner = ndimage.binary_erosion(labels != background)
    found = []
    for label, place in enumerate(ndimage.find_objects(components), start=1):
        mask = components[place] == label
        if mask.sum() < MIN_AREA * labels.size:
            continue
        kept = mask & inner[place]
        counts = np.bincount(labels[place][kept if kept.any() else mask], minlength=len(_NAMES))
        best = int(counts.argmax())
        colour = _NAMES[best] if counts[best] > LEAST_SHARE * counts.sum() else UNKNOWN
        found.append((mask, colour, place))
    return _NAMES[background], found


def _nearest_colours(image: UInt8[np.ndarray, "H W 3"]) -> Int[np.ndarray, "H W"]:
    difference = image.astype(np.float32)[:, :, None] - _PALETTE  # [H W colours 3]
    return np.square(difference).sum(axis=-1).argmin(axis=-1)


def _stretched(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "GRID GRID"]:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((GRID, GRID), Image.Resampling.BILINEAR), np.float32) / 255


@cache
def _examples() -> tuple[Float[np.ndarray, "n GRID GRID"], list[str]]:
    """Return masks of rendered objects, half of them blurred and noised, and their shapes."""
    rng = np.random.default_rng(7)
    masks: list[np.ndarray] = []
    names: list[str] = []
    while len(names) < EXAMPLES:
        scene = sample_scene(int(rng.choice((1, 4, 5))), rng, "held_out" if rng.random() < 0.2 else "train")
        image = render(scene, int(rng.choice((32, 48, 64))), rng)
        _, found = _objects(blur_and_noise(image, rng) if rng.random() < 0.5 else image)
        if len(found) == len(scene.objects):  # of a stack, both from top to bottom
            masks += [_stretched(mask) for mask, _, _ in found]
            names += [thing.shape for thing in scene.objects]
    return np.stack(masks), names
