"""Pixels to a description of what is in them: background, objects with colour, shape, size and place, and words.

Nothing but the picture is used. Steps: the background is the median of the frame; pixels far from it in colour form
connected components; each component gives a colour (nearest of the palette, allowing for soft edges) and a coverage map
(how far each pixel lies on the way from background to that colour); the coverage, moved and scaled to a standard place,
is compared with templates.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from dalle_jax.scenes.scene import COLOURS, PLAIN
from dalle_jax.scenes.templates import GLYPH_HEIGHT, extent, letter_bank, letter_view, shape_bank, shape_view

UNKNOWN = "unknown"
FOREGROUND = 48.0
"""Colour distance (of 442) from which a pixel is not background: above noise, below a third of the weakest contrast."""
SPECK = 0.009
"""Components below this share of the picture are noise; a small ring covers 0.04."""
APART = 0.33
"""Share of a component's strongest distance that a pixel needs to stay in it; pink on plain has 0.46 of black's."""
NEAR_COLOUR = 75.0
SAME_SHAPE = 0.90
SMALL_BIG = 0.465
SIGN = 0.78


@dataclass(frozen=True)
class Seen:
    """One object. x, y (centre) and ``extent`` are in units of the picture's side; names may be "unknown"."""

    colour: str
    shape: str
    x: float
    y: float
    extent: float

    @property
    def size(self) -> str:
        """The size class that the extent falls in."""
        return "small" if self.extent < SMALL_BIG else "big"


@dataclass(frozen=True)
class Reading:
    """What a picture shows. ``background`` is "plain", a colour or "unknown"; ``word`` is None without a sign."""

    background: str
    objects: tuple[Seen, ...]
    word: str | None = None


def perceive(image: UInt8[np.ndarray, "size size 3"]) -> Reading:
    """Everything that is seen in one picture; objects from left to right within rows of the scan."""
    pixels = image.astype(np.float32)
    size = image.shape[0]
    background = _frame_colour(pixels)
    difference = pixels - background  # [H W C]
    labels, windows = _components(np.sqrt(np.einsum("hwc,hwc->hw", difference, difference)))
    boards = [window for window in windows.values() if window[1].stop - window[1].start > SIGN * size]
    objects, word = [], None
    for label, window in windows.items():
        if any(_lies_in(window, board) for board in boards):
            continue  # the inside of an O
        if window in boards:
            colour, word = _read_sign(pixels[window])
            rows, columns = window
            middle = ((columns.start + columns.stop) / 2 / size, (rows.start + rows.stop) / 2 / size)
            objects.append(Seen(colour, "sign", *middle, extent=(columns.stop - columns.start) / size))
        else:
            objects.append(_read_object(difference, labels, label, window, background))
    return Reading(_name_background(background), tuple(objects), word)


def _components(distance: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[slice, slice]]]:
    """Connected pixels apart from the background: labels [H W], and label to window of all but specks.

    A second, higher threshold relative to each component's strongest pixel parts neighbours whose blurred edges meet.
    """
    rough, count = ndimage.label(distance > FOREGROUND)
    strongest = ndimage.maximum(distance, rough, np.arange(count + 1)) if count else np.zeros(1)
    labels, count = ndimage.label((rough > 0) & (distance > APART * np.asarray(strongest)[rough]))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    windows = dict(enumerate(ndimage.find_objects(labels), start=1))
    return labels, {label: window for label, window in windows.items() if areas[label] >= SPECK * distance.size}


def _lies_in(window: tuple[slice, slice], board: tuple[slice, slice]) -> bool:
    return window != board and all(a.start >= b.start and a.stop <= b.stop for a, b in zip(window, board, strict=True))


def _frame_colour(pixels: np.ndarray) -> np.ndarray:
    """The median of the picture's outermost pixels: [C]."""
    frame = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return np.partition(frame, len(frame) // 2, axis=0)[len(frame) // 2]


def _name_background(colour: np.ndarray) -> str:
    if np.linalg.norm(colour - np.array(PLAIN)) < NEAR_COLOUR:
        return "plain"
    distances = np.linalg.norm(_PALETTE - colour, axis=1)
    return _NAMES[distances.argmin()] if distances.min() < NEAR_COLOUR else UNKNOWN


def _read_object(
    difference: np.ndarray, labels: np.ndarray, label: int, window: tuple[slice, slice], background: np.ndarray
) -> Seen:
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
    shape = names[best] if scores[best] > SAME_SHAPE else UNKNOWN
    colour = _name_colour(core, background) if _is_one_colour(patch, own == label, core) else UNKNOWN
    return Seen(colour, shape, (columns.start + x) / size, (rows.start + y) / size, extent(coverage) / size)


def _core(patch: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mean difference from the background where it is strongest, that is away from soft edges: [C]."""
    values = patch[inside]  # [n C]
    strength = np.einsum("nc,nc->n", values, values)
    limit = 0.72 * np.partition(strength, int(0.9 * len(strength)))[int(0.9 * len(strength))]
    return values[strength >= limit].mean(axis=0)


def _is_one_colour(patch: np.ndarray, inside: np.ndarray, core: np.ndarray) -> bool:
    """Whether nearly all of a component's pixels lie on the way from the background to its own colour."""
    values = patch[inside]
    along = values @ (core / np.linalg.norm(core))
    return float(np.square(values).sum() - np.square(along).sum()) < 0.10 * float(np.square(values).sum())


def _name_colour(core: np.ndarray, background: np.ndarray) -> str:
    """The palette's colour that, thinned by a soft edge to no less than 3/4, comes nearest."""
    towards = _PALETTE - background  # [8 C]
    squared = np.einsum("pc,pc->p", towards, towards) + 1e-6
    share = np.clip(towards @ core / squared, 0.75, 1.0)
    distances = np.linalg.norm(share[:, None] * towards - core, axis=1)
    distances[squared < FOREGROUND**2] = np.inf  # the background's own colour
    return _NAMES[distances.argmin()] if distances.min() < NEAR_COLOUR else UNKNOWN


def _read_sign(board: Float[np.ndarray, "h w c"]) -> tuple[str, str]:
    """The colour of a board and the letters on it, from left to right."""
    height, width = board.shape[:2]
    edge = max(1, int(0.1 * height))
    thin = height <= 2 * edge  # a stroke, with no room for letters
    rim = board.reshape(-1, 3) if thin else np.concatenate([board[edge, edge:-edge], board[-1 - edge, edge:-edge]])
    colour = np.median(rim, axis=0)
    distances = np.linalg.norm(_PALETTE - colour, axis=1)
    name = _NAMES[distances.argmin()] if distances.min() < NEAR_COLOUR else UNKNOWN
    if thin:
        return name, ""
    difference = (board - colour)[edge:-edge, edge:-edge]
    strength = np.einsum("hwc,hwc->hw", difference, difference)
    ink = difference[strength >= np.partition(strength, -height, axis=None)[-height]].mean(axis=0)
    if np.linalg.norm(ink) < 2 * FOREGROUND:
        return name, ""
    coverage = np.clip(difference @ (ink / (ink @ ink)), 0, 1.1)
    return name, "".join(_letters(coverage, width / 0.94))


def _letters(coverage: np.ndarray, size: float) -> list[str]:
    """Each run of columns with ink is a letter."""
    inked = np.concatenate([[0], coverage.max(axis=0) > 0.42, [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(inked))
    names, bank = letter_bank()
    letters = []
    for start, stop in edges.reshape(-1, 2).tolist():
        if stop - start < 0.06 * size:
            continue
        if stop - start > GLYPH_HEIGHT * size:
            letters.append("?")
            continue
        scores = bank @ letter_view(coverage, start, stop)
        letters.append(names[scores.argmax()] if scores.max() > SAME_SHAPE - 0.1 else "?")
    return letters


_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), np.float32)
