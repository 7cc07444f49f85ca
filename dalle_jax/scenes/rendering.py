"""Rendering of scenes: positions of objects, and antialiased drawing at any image size.

Lengths are in units of the image's side, so a scene looks alike at 32 and at 256 pixels. Only the letters of a sign
differ: bitmaps in small images, and strokes from ``STROKES_FROM`` pixels.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

from dalle_jax.scenes.scene import COLOURS, PLAIN, Scene
from dalle_jax.scenes.shapes import GLYPH_ROWS, REACH, RESOLUTION, distance_table, word_bitmap
from dalle_jax.scenes.strokes import word_coverage

DIAMETER = {"small": 0.34, "big": 0.62}
PAIR_DIAMETER = 0.39
BACKGROUND_DIAMETER = 0.56
COUNT_DIAMETER = 0.37
STACK_DIAMETER = 0.25
SIGN_WIDTH, SIGN_HEIGHT, SIGN_CELL = 0.94, 0.46, 0.042
STROKES_FROM = 128
"""The side from which words are drawn in strokes. In a smaller image a cell of a bitmap is about as fine."""
NEAR, FAR = 0.26, 0.74
_GROUPS = {
    2: [(NEAR, 0.5), (FAR, 0.5)],
    3: [(0.5, NEAR), (NEAR, FAR), (FAR, FAR)],
    4: [(NEAR, NEAR), (FAR, NEAR), (NEAR, FAR), (FAR, FAR)],
}
LATTICE = 32
_STACK = [(0.5, 0.17), (0.5, 0.5), (0.5, 0.83)]
_DARK_INK, _LIGHT_INK = (15, 15, 15), (250, 250, 250)
_INK = {colour: _DARK_INK if colour in ("yellow", "cyan", "pink") else _LIGHT_INK for colour in COLOURS}


def render(scene: Scene, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """Render an image of a scene; ``rng`` draws the positions."""
    canvas = np.empty((3, size, size), np.float32)
    for plane, value in zip(canvas, PLAIN if scene.background is None else COLOURS[scene.background], strict=True):
        plane.fill(value)
    if scene.word is not None:
        _draw_sign(canvas, scene, rng)
    else:
        for thing, (x, y, diameter) in zip(scene.objects, _places(scene, rng), strict=True):
            draw_shape(canvas, thing.shape, COLOURS[thing.colour], x * size, y * size, diameter * size / 2)
    canvas += 0.5
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


def draw_shape(
    canvas: Float[np.ndarray, "c h w"], shape: str, colour: tuple[float | int, ...], x: float, y: float, half: float
) -> None:
    """Draw a shape of half width ``half`` pixels, centred at (x, y), onto ``canvas`` in place.

    The canvas is channel-first, since numpy is several times faster along rows than along three channels.
    """
    height, width = canvas.shape[1:]
    reach = half * 1.15 + 1
    left, right = max(0, int(x - reach)), min(width, int(x + reach) + 1)
    top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 1)
    scale, middle = RESOLUTION / (2 * REACH * half), RESOLUTION / 2
    rows = (np.arange(top + 0.5 - y, bottom - y) * scale + middle).astype(np.intp)
    columns = (np.arange(left + 0.5 - x, right - x) * scale + middle).astype(np.intp)
    coverage = distance_table(shape).take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
    coverage *= -half
    coverage += 0.5
    np.maximum(np.minimum(coverage, 1, out=coverage), 0, out=coverage)
    _blend(canvas[:, top:bottom, left:right], coverage, colour)


def _blend(planes: np.ndarray, coverage: np.ndarray, colour: tuple[float | int, ...]) -> None:
    """Blend ``colour`` over ``planes`` [C h w] in place, with ``coverage`` [h w] as opacity."""
    planes += coverage * (_as_plane(colour) - planes)


@cache
def _as_plane(colour: tuple[float | int, ...]) -> np.ndarray:
    return np.array(colour, np.float32)[:, None, None]  # [C 1 1]


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Choose the centre x, centre y and diameter of each object at random.

    All objects get the same random shift. Pairs are also tilted at random. Centres are rounded to a lattice of
    ``LATTICE`` points per side, which are whole pixels in an image of 32 px. The small number of positions lets a small
    image tokenizer suffice, so that a model's difficulty is to follow the caption.
    """
    jitter = (rng.random(3) * 2 - 1).tolist()
    shift = 0.02
    match scene.arrangement:
        case "single":
            size = scene.objects[0].size
            diameter = BACKGROUND_DIAMETER if size is None else DIAMETER[size]
            centres = [(0.5, 0.5)]
            shift = 0.06 if size == "small" else 0.04
        case "vertical":
            diameter = PAIR_DIAMETER
            centres = [(0.5 + 0.05 * jitter[-1], NEAR), (0.5 - 0.05 * jitter[-1], FAR)]
        case "horizontal":
            diameter = PAIR_DIAMETER
            centres = [(NEAR, 0.5 + 0.05 * jitter[-1]), (FAR, 0.5 - 0.05 * jitter[-1])]
        case "group":
            diameter, centres = COUNT_DIAMETER, _GROUPS[len(scene.objects)]
        case _:
            diameter, centres = STACK_DIAMETER, _STACK
    dx, dy = shift * jitter[-2], shift * jitter[-3]
    return [(_on_lattice(x + dx), _on_lattice(y + dy), diameter) for x, y in centres]


def _on_lattice(place: float) -> float:
    return round(place * LATTICE) / LATTICE


def _draw_sign(canvas: np.ndarray, scene: Scene, rng: np.random.Generator) -> None:
    """Draw a board across the image with a word in its middle."""
    x, y, cell = 0.5, _on_lattice(0.5 + 0.06 * (rng.random() * 2 - 1)), SIGN_CELL
    colour = scene.objects[0].colour
    board = np.ones((1, 1), np.float32)
    _draw_bitmap(canvas, board, COLOURS[colour], x, y, SIGN_WIDTH, SIGN_HEIGHT)
    size = canvas.shape[1]
    if size >= STROKES_FROM:
        _blend(canvas, word_coverage(str(scene.word), size, x * size, y * size, cell * size), _INK[colour])
        return
    bitmap = word_bitmap(str(scene.word))
    _draw_bitmap(canvas, bitmap, _INK[colour], x, y, bitmap.shape[1] * cell, GLYPH_ROWS * cell)


def _draw_bitmap(
    canvas: np.ndarray,
    bitmap: np.ndarray,
    colour: tuple[float | int, ...],
    x: float,
    y: float,
    width: float,
    height: float,
) -> None:
    """Draw a bitmap of the given size onto ``canvas``. A pixel's opacity is the share of its area that ink covers."""
    size = canvas.shape[1]
    rows = overlap(size, bitmap.shape[0], (y - height / 2) * size, height * size)
    columns = overlap(size, bitmap.shape[1], (x - width / 2) * size, width * size)
    _blend(canvas, rows @ bitmap @ columns.T, colour)


def overlap(pixels: int, cells: int, start: float, length: float) -> np.ndarray:
    """Return the share of each pixel that each of ``cells`` equal cells covers, [pixels cells].

    The cells divide the interval [start, start + length], in pixels.
    """
    edges = start + np.arange(cells + 1) * (length / cells)
    low = np.maximum(_pixel_edges(pixels), edges[:-1])
    high = np.minimum(_pixel_edges(pixels) + 1, edges[1:])
    return np.maximum(high - low, 0).astype(np.float32)


@cache
def _pixel_edges(pixels: int) -> np.ndarray:
    return np.arange(pixels)[:, None]
