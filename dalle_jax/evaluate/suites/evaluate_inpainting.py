"""Evaluation of inpainting and outpainting on captioned scenes; the scene reader judges the filled pixels.

- Inpainting: an object of a scene is hidden by a square, and a caption names an object of another colour and shape.
- Outpainting: a scene is extended to twice its width; and half of a scene, whose edge cuts through an object, is
  completed from its caption.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dalle_jax.arrays import Bool, UInt8
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.pipelines.edits.filler import HoleFiller
from dalle_jax.pipelines.edits.holes import Filled, Hole, fill_holes, side_of
from dalle_jax.pipelines.edits.painting import CONTEXT
from dalle_jax.pipelines.edits.windows import Window, covering_windows, windows_about
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.scenes import grammar
from dalle_jax.scenes.judge import judge
from dalle_jax.scenes.perceive import perceive
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import SceneObject

MARGIN = 1 / 32
"""The margin of a mask about the bounding box of an object, as a share of the image's side."""


@dataclass(frozen=True)
class EvaluateInpainting:
    """Evaluation of inpainting and outpainting: ``cases`` of each level, and as many extended and completed scenes.

    Every candidate of ``drawing`` is judged. The first ``shown`` cases of each kind are kept as strips.
    """

    cases: int
    drawing: Drawing
    levels: tuple[int, ...] = (1, 2)
    seed: int = 0
    shown: int = 8


@dataclass(frozen=True)
class PaintedStrip:
    """A case as a row of images: the given one with its hole in grey, then the results, best first.

    ``right`` are the reader's verdicts on the results, None without a verdict.
    """

    kind: Literal["inpaint", "extend", "complete"]
    caption: str
    images: tuple[UInt8[np.ndarray, "H W 3"], ...]
    right: tuple[bool | None, ...]


@dataclass(frozen=True)
class LevelHoles:
    """Shares of cases of a level with the caption's object in the hole: first candidate, CLIP's choice, any."""

    level: int
    first: Share
    chosen: Share
    any_of: Share


@dataclass(frozen=True)
class PaintingFindings:
    """Measurements of inpainting and outpainting.

    ``unmasked_equal`` is the share of all results whose pixels outside of the mask are those of the given image.
    ``seam_ratio`` is the error at the seams of extended scenes over that inside (``seam_errors``), of first
    candidates. ``completed`` is the share of completed scenes that match their caption; ``completed_seam_ratio`` is
    that of their seams, which cut through an object, and ``scene_seam_ratio`` that of the same columns of the scenes
    themselves.
    """

    holes: tuple[LevelHoles, ...]
    candidates: int
    unmasked_equal: Share
    seam_ratio: float
    completed: Share
    completed_seam_ratio: float
    scene_seam_ratio: float
    strips: tuple[PaintedStrip, ...]

    @property
    def object_in_hole(self) -> Share:
        """The share of all cases whose first candidate has the caption's object in the hole."""
        return sum((one.first for one in self.holes), Share(0, 0))


def evaluate_inpainting(filler: HoleFiller, config: EvaluateInpainting, say: Callable[[str], None]) -> PaintingFindings:
    """Fill, extend and complete scenes, and judge them; ``say`` takes a line of progress. The filler must rank."""
    holes, strips, equal = [], [], Share(0, 0)
    for level in config.levels:
        cases = _inpainting_cases(level, config, side_of(filler))
        filled = fill_holes(filler, [one.hole for one in cases])
        right = [[_has(image, one) for image in found.pixels] for one, found in zip(cases, filled, strict=True)]
        holes.append(_level_holes(level, filled, right))
        equal += share_of(_unmasked_equal(one.hole, found) for one, found in zip(cases, filled, strict=True))
        strips += [
            _strip("inpaint", one.hole, found, verdict)
            for one, found, verdict in zip(cases, filled, right, strict=True)
        ][: config.shown]
        say(f"level {level}: {holes[-1].first.right} of {holes[-1].first.count} holes hold the caption's object")
    extended, seam_ratio = _extend(filler, config)
    completed, share, ratios = _complete(filler, config)
    say(f"seam error {seam_ratio:.2f} of that inside; {share.right} of {share.count} halves completed as captioned")
    return PaintingFindings(
        tuple(holes), config.drawing.candidates, equal, seam_ratio, share, *ratios, (*strips, *extended, *completed)
    )


def seam_errors(images: UInt8[np.ndarray, "B H W 3"], seam: int) -> tuple[float, float]:
    """Return the mean absolute difference of neighbouring columns at a seam, and of all others.

    The seam lies between the columns ``seam - 1`` and ``seam``. Values are in 0 .. 255.
    """
    steps = np.abs(np.diff(images.astype(np.float64), axis=2)).mean(axis=(0, 1, 3))  # [W-1]
    return float(steps[seam - 1]), float(np.delete(steps, seam - 1).mean())


@dataclass(frozen=True, eq=False)
class _Case:
    """A hole, and the object that its prompt names."""

    hole: Hole
    wanted: SceneObject


def _options(config: EvaluateInpainting, number: int) -> RequestOptions:
    drawing = config.drawing
    return RequestOptions.of(drawing, keep=drawing.candidates, seed=config.seed + number)


def _inpainting_cases(level: int, config: EvaluateInpainting, side: int) -> list[_Case]:
    """Hide one object of each scene; the caption is of level 1 and names an object of another colour and shape."""
    rng, cases = np.random.default_rng((config.seed, 5, level)), list[_Case]()
    while len(cases) < config.cases:
        scene, other = (grammar.sample_scene(one, rng, "validation") for one in (level, 1))
        image, wanted = render(scene, side, rng), other.objects[0]
        objects = perceive(image).objects
        old = objects[int(rng.integers(len(objects)))] if len(objects) == len(scene.objects) else None
        if old is None or old.colour == wanted.colour or old.shape == wanted.shape:
            continue
        hidden = _square(side, old.x, old.y, old.extent / 2 + MARGIN)
        windows = windows_about(hidden, CONTEXT, side // 2)
        hole = Hole(image, hidden, windows, grammar.caption(other, rng), _options(config, len(cases)))
        cases.append(_Case(hole, wanted))
    return cases


def _square(side: int, x: float, y: float, half: float) -> Bool[np.ndarray, "side side"]:
    """Return True in a square about a point; lengths are shares of the side."""
    down, right = (np.arange(side) + 0.5 - middle * side for middle in (y, x))
    return (np.abs(down)[:, None] <= half * side) & (np.abs(right) <= half * side)


def _has(image: UInt8[np.ndarray, "H W 3"], case: _Case) -> bool:
    """Return True if the reader finds an object of the wanted colour and shape with its middle in the hole."""
    side, hidden = len(image), case.hole.hidden
    return any(
        (seen.colour, seen.shape) == (case.wanted.colour, case.wanted.shape)
        and hidden[min(side - 1, int(seen.y * side)), min(side - 1, int(seen.x * side))]
        for seen in perceive(image).objects
    )


def _level_holes(level: int, filled: list[Filled], right: list[list[bool]]) -> LevelHoles:
    firsts = share_of(verdicts[int(np.argmin(one.chosen))] for one, verdicts in zip(filled, right, strict=True))
    return LevelHoles(level, firsts, share_of(one[0] for one in right), share_of(any(one) for one in right))


def _first(filled: Filled) -> UInt8[np.ndarray, "H W 3"]:
    """Return the first candidate, whatever its rank."""
    return filled.pixels[int(np.argmin(filled.chosen))]


def _unmasked_equal(hole: Hole, filled: Filled) -> bool:
    return bool((filled.pixels == hole.pixels)[:, ~hole.hidden].all())


def _strip(
    kind: Literal["inpaint", "extend", "complete"], hole: Hole, filled: Filled, right: list[bool] | None = None
) -> PaintedStrip:
    given = np.where(hole.hidden[..., None], np.uint8(160), hole.pixels)
    verdicts = tuple(None for _ in filled.pixels) if right is None else tuple(right)
    return PaintedStrip(kind, hole.prompt, (given, *filled.pixels), verdicts)


def _extend(filler: HoleFiller, config: EvaluateInpainting) -> tuple[list[PaintedStrip], float]:
    """Extend scenes of two objects to the right to twice their width, each with the caption of another object."""
    rng, side, holes = np.random.default_rng((config.seed, 6)), side_of(filler), []
    for number in range(config.cases):
        scene, other = (grammar.sample_scene(level, rng, "validation") for level in (2, 1))
        image = np.pad(render(scene, side, rng), ((0, 0), (0, side), (0, 0)))
        hidden = np.zeros(image.shape[:2], bool)
        hidden[:, side:] = True
        windows = covering_windows(hidden, side)
        holes.append(Hole(image, hidden, windows, grammar.caption(other, rng), _options(config, number)))
    filled = fill_holes(filler, holes)
    at_seam, inside = seam_errors(np.stack([_first(one) for one in filled]), side)
    strips = [_strip("extend", hole, one) for hole, one in zip(holes, filled, strict=True)]
    return strips[: config.shown], at_seam / inside


def _complete(filler: HoleFiller, config: EvaluateInpainting) -> tuple[list[PaintedStrip], Share, tuple[float, float]]:
    """Complete the left half of scenes of one object, that is to twice its width, from their captions."""
    rng, side, holes, scenes = np.random.default_rng((config.seed, 7)), side_of(filler), [], []
    hidden = np.zeros((side, side), bool)
    hidden[:, side // 2 :] = True
    for number in range(config.cases):
        scene = grammar.sample_scene(1, rng, "validation")
        scenes.append(render(scene, side, rng))
        caption, window = grammar.caption(scene, rng), Window(0, 0, side)
        holes.append(Hole(scenes[-1], hidden, (window,), caption, _options(config, number)))
    filled = fill_holes(filler, holes)
    right = [[judge(image, hole.prompt).right for image in one.pixels] for hole, one in zip(holes, filled, strict=True)]
    strips = [_strip("complete", *each) for each in zip(holes, filled, right, strict=True)]
    firsts = np.stack([_first(one) for one in filled])
    ratios = [at_seam / inside for at_seam, inside in (seam_errors(x, side // 2) for x in (firsts, np.stack(scenes)))]
    share = share_of(judge(image, hole.prompt).right for image, hole in zip(firsts, holes, strict=True))
    return strips[: config.shown], share, (ratios[0], ratios[1])
