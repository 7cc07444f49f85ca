"""Scene detection from pixels: background, objects with colour, shape, size and position, and words on signs.

1. The background is the median colour of the outermost pixels.
2. Pixels with a colour far from the background form connected components, one for each object.
3. A component's colour is the nearest one of the palette, with allowance for soft edges.
4. A component's coverage map gives each pixel's position between the background and the object's colour.
5. The coverage map, moved and scaled to a standard frame, is matched with templates of shapes and letters.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from dalle_jax.scenes.rendering import STROKES_FROM
from dalle_jax.scenes.scene import COLOURS, PLAIN
from dalle_jax.scenes.templates import GLYPH_HEIGHT, extent, letter_bank, letter_view, shape_bank, shape_view

UNKNOWN = "unknown"
FOREGROUND = 48.0
"""Pixels at least this far in RGB from the background (of at most 442) are foreground.

The value is above noise and below a third of the weakest contrast."""
MIN_AREA = 0.009
"""Components that cover a smaller share of the image are noise. The smallest object, a small ring, covers 0.04."""
SEPARATION = 0.33
"""Threshold of a pixel's distance from the background, as a share of the largest distance in its component.

Pixels below it are removed, which separates objects with touching edges. Next to black, pink has a share of 0.46 on the
plain background, so it is kept.
"""
MAX_COLOUR_DISTANCE = 75.0
MIN_CORRELATION = 0.90
MIN_BIG_EXTENT = 0.465
MIN_SIGN_WIDTH = 0.78


@dataclass(frozen=True)
class DetectedObject:
    """A detected object. ``colour`` and ``shape`` may be "unknown".

    The centre x, y and ``extent``, the longer side of the bounding box, are fractions of the image's side.
    """

    colour: str
    shape: str
    x: float
    y: float
    extent: float

    @property
    def size(self) -> str:
        """The size as captions name it, "small" or "big"."""
        return "small" if self.extent < MIN_BIG_EXTENT else "big"


@dataclass(frozen=True)
class DetectedScene:
    """The content of an image. ``background`` is "plain", a colour or "unknown"; ``word`` is None without a sign."""

    background: str
    objects: tuple[DetectedObject, ...]
    word: str | None = None


def perceive(image: UInt8[np.ndarray, "size size 3"]) -> DetectedScene:
    """Detect the scene in an image. Objects are ordered by their first pixel, row by row."""
    pixels = image.astype(np.float32)
    size = image.shape[0]
    background = _frame_colour(pixels)
    difference = pixels - background  # [H W C]
    labels, windows = _components(np.sqrt(np.einsum("hwc,hwc->hw", difference, difference)))
    boards = [window for window in windows.values() if window[1].stop - window[1].start > MIN_SIGN_WIDTH * size]
    objects, word = [], None
    for label, window in windows.items():
        if any(_is_inside(window, board) for board in boards):
            continue  # the inside of an O
        if window in boards:
            colour, word = _read_sign(pixels[window], strokes=size >= STROKES_FROM)
            rows, columns = window
            middle = ((columns.start + columns.stop) / 2 / size, (rows.start + rows.stop) / 2 / size)
            objects.append(DetectedObject(colour, "sign", *middle, extent=(columns.stop - columns.start) / size))
        else:
            objects.append(_read_object(difference, labels, label, window, background))
    return DetectedScene(_name_background(background), tuple(objects), word)


def _components(distance: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[slice, slice]]]:
    """Label connected foreground pixels.

    Return the labels [H W], and by label the bounding box of each component that is large enough to be an object.

    A second, higher threshold, relative to each component's strongest pixel, separates neighbours with touching edges.
    """
    rough, count = ndimage.label(distance > FOREGROUND)
    strongest = ndimage.maximum(distance, rough, np.arange(count + 1)) if count else np.zeros(1)
    labels, count = ndimage.label((rough > 0) & (distance > SEPARATION * np.asarray(strongest)[rough]))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    windows = dict(enumerate(ndimage.find_objects(labels), start=1))
    return labels, {label: window for label, window in windows.items() if areas[label] >= MIN_AREA * distance.size}


def _is_inside(window: tuple[slice, slice], board: tuple[slice, slice]) -> bool:
    return window != board and all(a.start >= b.start and a.stop <= b.stop for a, b in zip(window, board, strict=True))


def _frame_colour(pixels: np.ndarray) -> np.ndarray:
    """Return the median colour [C] of the pixels at the image's border."""
    frame = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return np.partition(frame, len(frame) // 2, axis=0)[len(frame) // 2]


def _name_background(colour: np.ndarray) -> str:
    if np.linalg.norm(colour - np.array(PLAIN)) < MAX_COLOUR_DISTANCE:
        return "plain"
    distances = np.linalg.norm(_PALETTE - colour, axis=1)
    return _NAMES[distances.argmin()] if distances.min() < MAX_COLOUR_DISTANCE else UNKNOWN


def _read_object(
    difference: np.ndarray, labels: np.ndarray, label: int, window: tuple[slice, slice], background: np.ndarray
) -> DetectedObject:
    size = labels.shape[0]
    margin = max(1, size // 24)
    rows, columns = (slice(max(0, s.start - margin), min(size, s.stop + margin)) for s in window)
    own = labels[rows, columns]
    patch = difference[rows, columns]  # [h w C]
    core = _core(patch, own == label)
    coverage = patch @ (core / (core @ core))  # [h w]
    coverage[(own != label) & (own != 0)] = 0
    np.clip(coverage, 0, 1.1, out=coverage)
    view, y, x = shape_view(coverage)
    names, bank = shape_bank()
    scores = bank @ view
    best = scores.argmax()
    shape = names[best] if scores[best] > MIN_CORRELATION else UNKNOWN
    colour = _name_colour(core, background) if _is_one_colour(patch, own == label, core) else UNKNOWN
    return DetectedObject(colour, shape, (columns.start + x) / size, (rows.start + y) / size, extent(coverage) / size)


def _core(patch: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return an object's colour minus the background's colour, [C].

    It is the mean of ``patch`` over the strongest pixels ``inside`` the object, which excludes its soft edges.
    """
    values = patch[inside]  # [n C]
    strength = np.einsum("nc,nc->n", values, values)
    limit = 0.72 * np.partition(strength, int(0.9 * len(strength)))[int(0.9 * len(strength))]
    return values[strength >= limit].mean(axis=0)


def _is_one_colour(patch: np.ndarray, inside: np.ndarray, core: np.ndarray) -> bool:
    """Return True if nearly all pixels lie on the line from the background to the component's own colour."""
    values = patch[inside]
    along = values @ (core / np.linalg.norm(core))
    return float(np.square(values).sum() - np.square(along).sum()) < 0.10 * float(np.square(values).sum())


def _name_colour(core: np.ndarray, background: np.ndarray) -> str:
    """Return the name of the nearest colour of the palette.

    Each palette colour is also compared when blended with up to 1/4 background, as at soft edges.
    """
    towards = _PALETTE - background  # [8 C]
    squared = np.einsum("pc,pc->p", towards, towards) + 1e-6
    share = np.clip(towards @ core / squared, 0.75, 1.0)
    distances = np.linalg.norm(share[:, None] * towards - core, axis=1)
    distances[squared < FOREGROUND**2] = np.inf  # colours too close to the background
    return _NAMES[distances.argmin()] if distances.min() < MAX_COLOUR_DISTANCE else UNKNOWN


def _read_sign(board: Float[np.ndarray, "h w c"], strokes: bool) -> tuple[str, str]:
    """Return the colour of a sign and the word on it, whose letters are bitmaps or ``strokes``."""
    height, width = board.shape[:2]
    edge = max(1, int(0.1 * height))
    thin = height <= 2 * edge  # too thin for letters
    rim = board.reshape(-1, 3) if thin else np.concatenate([board[edge, edge:-edge], board[-1 - edge, edge:-edge]])
    colour = np.median(rim, axis=0)
    distances = np.linalg.norm(_PALETTE - colour, axis=1)
    name = _NAMES[distances.argmin()] if distances.min() < MAX_COLOUR_DISTANCE else UNKNOWN
    if thin:
        return name, ""
    difference = (board - colour)[edge:-edge, edge:-edge]
    strength = np.einsum("hwc,hwc->hw", difference, difference)
    ink = difference[strength >= np.partition(strength, -height, axis=None)[-height]].mean(axis=0)
    if np.linalg.norm(ink) < 2 * FOREGROUND:
        return name, ""
    coverage = np.clip(difference @ (ink / (ink @ ink)), 0, 1.1)
    return name, "".join(_letters(coverage, width / 0.94, strokes))


def _letters(coverage: np.ndarray, size: float, strokes: bool) -> list[str]:
    """Recognise the letters of a word. Each group of neighbouring columns with ink is one letter."""
    inked = np.concatenate([[0], coverage.max(axis=0) > 0.42, [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(inked))
    names, bank = letter_bank(strokes)
    letters = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if stop - start < 0.06 * size:
            continue
        if stop - start > GLYPH_HEIGHT * size:
            letters.append("?")
            continue
        scores = bank @ letter_view(coverage, start, stop)
        letters.append(names[scores.argmax()] if scores.max() > MIN_CORRELATION - 0.1 else "?")
    return letters


_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), np.float32)
