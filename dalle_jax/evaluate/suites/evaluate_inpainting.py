"""Evaluation of inpainting and outpainting on captioned scenes; the scene reader judges the filled pixels.

- Inpainting: an object of a scene is hidden by a square, and a caption names an object of another colour and shape.
- Outpainting: a scene is extended to twice its width; and half of a scene, whose edge cuts through an object, is
  completed from its caption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Bool, UInt8
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.evaluate.suites.findings import EditedImages, EditFindings, EditMeasure
from dalle_jax.images.editable import Margins
from dalle_jax.pipelines.edits.filler import HoleFiller
from dalle_jax.pipelines.edits.holes import Filled, Hole, fill_holes
from dalle_jax.pipelines.edits.painting import CONTEXT
from dalle_jax.pipelines.edits.windows import Tile, Window, windows_about, windows_beside
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

    Each case has ``candidates`` results of classifier-free guidance ``guidance``, all of which are judged. The first
    ``shown`` cases of each kind are in a report.
    """

    cases: int = 40
    candidates: int = 4
    guidance: float = 2.0
    levels: tuple[int, ...] = (1, 2)
    seed: int = 0
    shown: int = 6

    def options(self, number: int) -> RequestOptions:
        """Return the options of a case, whose seed is ``seed + number``; all candidates are kept."""
        seed = self.seed + number
        return RequestOptions(candidates=self.candidates, keep=self.candidates, guidance=self.guidance, seed=seed)


def evaluate_inpainting(
    filler: HoleFiller, config: EvaluateInpainting, say: Callable[[str], None]
) -> tuple[EditFindings, EditFindings]:
    """Fill, extend and complete scenes, and judge them; ``say`` takes a line of progress. The filler must rank."""
    found = _measure_inpainting(filler, config), _measure_outpainting(filler, config)
    for one in found:
        say(f"{one.name}: {', '.join(f'{measure.key} {_shown(measure.value)}' for measure in one.measures)}")
    return found


def _measure_inpainting(filler: HoleFiller, config: EvaluateInpainting) -> EditFindings:
    """Hide an object of each scene and inpaint another one."""
    firsts, chosen, any_of, equal, shown = [], [], [], [], []
    for level in config.levels:
        cases = _inpainting_cases(level, config, filler.side)
        filled = fill_holes(filler, [one.hole for one in cases])
        verdicts = [[_has(image, one) for image in found.pixels] for one, found in zip(cases, filled, strict=True)]
        firsts.append(share_of(one[_first(found)] for one, found in zip(verdicts, filled, strict=True)))
        chosen.append(share_of(one[0] for one in verdicts))
        any_of.append(share_of(any(one) for one in verdicts))
        equal.append(share_of(_others_equal(one.hole, found) for one, found in zip(cases, filled, strict=True)))
        rows = [_row(one.hole, found, right[0]) for one, found, right in zip(cases, filled, verdicts, strict=True)]
        shown += rows[: config.shown]
    name, number = "object_in_hole", config.candidates
    measures = (
        EditMeasure(name, "The caption's object is in the hole", _sum(firsts), "the first candidate"),
        EditMeasure(f"{name}_reranked_{number}", f"CLIP's choice of {number}", _sum(chosen)),
        EditMeasure(f"{name}_any_of_{number}", f"Any of {number}", _sum(any_of)),
        *(
            EditMeasure(f"{name}_level_{level}", f"In scenes of level {level}", share, "the first candidate")
            for level, share in zip(config.levels, firsts, strict=True)
        ),
        EditMeasure("unmasked_equal", "All other pixels are equal", _sum(equal), "all candidates, to the last bit"),
    )
    about = (
        "A square hides an object of a rendered scene. A caption names an object of another colour and another shape. "
        "The reader looks for it in the hole. Each row: the given image, then the results, the best by CLIP first."
    )
    return EditFindings("inpaint", "Inpainting", about, _sum(firsts).count, measures, tuple(shown))


def _measure_outpainting(filler: HoleFiller, config: EvaluateInpainting) -> EditFindings:
    """Extend scenes of two objects, and complete halves of scenes of one object."""
    side = filler.side
    extended = _extended_scenes(config, side)
    wide = fill_holes(filler, extended)
    halves, scenes = _halved_scenes(config, side)
    whole = fill_holes(filler, halves)
    firsts = np.stack([found.pixels[_first(found)] for found in whole])
    right = [judge(image, hole.prompt).right for image, hole in zip(firsts, halves, strict=True)]
    ratio = seam_ratio(np.stack([found.pixels[_first(found)] for found in wide]), side)
    cut, uncut = (seam_ratio(images, side // 2) for images in (firsts, np.stack(scenes)))
    measures = (
        EditMeasure("seam_ratio", "Error at the seam, as a share of that inside", ratio, "scenes of twice their width"),
        EditMeasure("completed", "Halves that are completed as captioned", share_of(right), "the first candidate"),
        EditMeasure("completed_seam_ratio", "Error at a seam through an object", cut, f"{uncut:.2f} in whole scenes"),
    )
    rows = [_row(hole, found) for hole, found in zip(extended, wide, strict=True)][: config.shown]
    rows += [_row(*one) for one in zip(halves, whole, right, strict=True)][: config.shown]
    about = (
        "Scenes of two objects are extended to the right to twice their width, with the caption of another object. "
        "The left half of scenes of one object is completed with the scene's caption. The error at a seam is the mean "
        "absolute difference of the two columns beside it; that inside is the mean over all other columns."
    )
    return EditFindings("outpaint", "Outpainting", about, config.cases, measures, tuple(rows))


def seam_ratio(images: UInt8[np.ndarray, "B H W 3"], seam: int) -> float:
    """Return the mean absolute difference of columns ``seam - 1`` and ``seam``, over that of all other neighbours."""
    steps = np.abs(np.diff(images.astype(np.float64), axis=2)).mean(axis=(0, 1, 3))  # [W-1]
    return float(steps[seam - 1] / np.delete(steps, seam - 1).mean())


@dataclass(frozen=True, eq=False)
class _Case:
    """A hole, and the object that its prompt names."""

    hole: Hole
    wanted: SceneObject


def _inpainting_cases(level: int, config: EvaluateInpainting, side: int) -> list[_Case]:
    """Hide one object of each scene; the caption is of level 1 and names an object of another colour and shape."""
    rng, cases = np.random.default_rng((config.seed, 7, level)), list[_Case]()
    while len(cases) < config.cases:
        scene, other = (grammar.sample_scene(one, rng, "validation") for one in (level, 1))
        image, wanted = render(scene, side, rng), other.objects[0]
        objects = perceive(image).objects
        old = objects[int(rng.integers(len(objects)))] if len(objects) == len(scene.objects) else None
        if old is None or old.colour == wanted.colour or old.shape == wanted.shape:
            continue
        hidden = _square(side, old.x, old.y, old.extent / 2 + MARGIN)
        windows = windows_about(hidden, CONTEXT, side // 2)
        hole = Hole(image, hidden, windows, grammar.caption(other, rng), config.options(len(cases)))
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


def _first(filled: Filled) -> int:
    """Return the rank of the first candidate."""
    return int(np.argmin(filled.chosen))


def _others_equal(hole: Hole, filled: Filled) -> bool:
    """Return True if every result has the given pixels outside of the hole."""
    return bool((filled.pixels == hole.pixels)[:, ~hole.hidden].all())


def _shown(value: Share | float) -> str:
    return f"{value.right}/{value.count}" if isinstance(value, Share) else f"{value:.2f}"


def _sum(shares: Sequence[Share]) -> Share:
    return sum(shares, Share(0, 0))


def _row(hole: Hole, filled: Filled, right: bool | None = None) -> EditedImages:
    """Return a row of the report: the given image with its hole in grey, and then the results, the best first.

    ``right`` is True if the first result was judged right, and None if it is not judged.
    """
    given = np.where(hole.hidden[..., None], np.uint8(160), hole.pixels)
    return EditedImages(hole.prompt, (given, *filled.pixels), right)


def _extended_scenes(config: EvaluateInpainting, side: int) -> list[Hole]:
    """Give scenes of two objects as much room at the right as they are wide, and the caption of another object."""
    rng, holes = np.random.default_rng((config.seed, 8)), []
    for number in range(config.cases):
        scene, other = (grammar.sample_scene(level, rng, "validation") for level in (2, 1))
        image = np.pad(render(scene, side, rng), ((0, 0), (0, side), (0, 0)))
        hidden = np.zeros(image.shape[:2], bool)
        hidden[:, side:] = True
        windows = windows_beside((side, side), Margins(right=side), CONTEXT)
        holes.append(Hole(image, hidden, windows, grammar.caption(other, rng), config.options(number)))
    return holes


def _halved_scenes(config: EvaluateInpainting, side: int) -> tuple[list[Hole], list[UInt8[np.ndarray, "H W 3"]]]:
    """Hide the right half of scenes of one object; the prompt is the scene's caption. Return the scenes too."""
    rng, holes, scenes = np.random.default_rng((config.seed, 9)), [], []
    hidden = np.zeros((side, side), bool)
    hidden[:, side // 2 :] = True
    for number in range(config.cases):
        scene = grammar.sample_scene(1, rng, "validation")
        scenes.append(render(scene, side, rng))
        caption, window = grammar.caption(scene, rng), Window(0, 0, side, Tile(0, side // 2, side, side // 2))
        holes.append(Hole(scenes[-1], hidden, (window,), caption, config.options(number)))
    return holes, scenes
