"""Comparison of captions with images, part by part. Only the image's pixels are used."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
from jaxtyping import UInt8

from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.perceive import DetectedObject, DetectedScene, perceive
from dalle_jax.scenes.scene import Scene, SceneObject

NOTHING = "nothing"


@dataclass(frozen=True)
class Part:
    """One claim of a caption, such as a colour or a relation, and what was found in the image at that point."""

    name: str
    expected: str
    found: str

    @property
    def right(self) -> bool:
        """Return True if the image agrees with the claim."""
        return self.expected == self.found


@dataclass(frozen=True)
class Judgement:
    """The result of checking a caption against an image, and the scene detected in the image."""

    caption: str
    parts: tuple[Part, ...]
    detected: DetectedScene

    @property
    def right(self) -> bool:
        """Return True if every part is right."""
        return all(part.right for part in self.parts)


def judge(image: UInt8[np.ndarray, "size size 3"], caption: str) -> Judgement:
    """Check a caption against an image. Raises ``UserError`` for a caption outside the grammar."""
    return judge_scene(perceive(image), parse(caption), caption)


def judge_scene(detected: DetectedScene, scene: Scene, caption: str) -> Judgement:
    """Compare the scene that a caption describes with the detected one. Additional objects make the caption wrong."""
    count = Part("count", str(len(scene.objects)), str(len(detected.objects)))
    background = Part("background", scene.background or "plain", detected.background)
    if scene.arrangement == "sign":
        parts = _sign_parts(scene, detected)
    elif scene.arrangement == "group":
        parts = _group_parts(scene, detected.objects)
    elif scene.arrangement == "stack":
        parts = _stack_parts(scene, detected.objects)
    elif scene.arrangement == "single":
        parts = _thing_parts(scene.objects[0], _nearest(scene.objects[0], detected.objects), "")
    else:
        parts = _pair_parts(scene, detected.objects)
    return Judgement(caption, (*parts, count, background), detected)


def _thing_parts(thing: SceneObject, seen: DetectedObject | None, suffix: str) -> list[Part]:
    parts = [
        Part("colour" + suffix, thing.colour, seen.colour if seen else NOTHING),
        Part("shape" + suffix, thing.shape, seen.shape if seen else NOTHING),
    ]
    if thing.size is not None:
        parts.append(Part("size" + suffix, thing.size, seen.size if seen else NOTHING))
    return parts


def _likeness(thing: SceneObject, seen: DetectedObject) -> int:
    return (thing.colour == seen.colour) + (thing.shape == seen.shape)


def _nearest(thing: SceneObject, objects: Sequence[DetectedObject]) -> DetectedObject | None:
    """Return the detected object that has the most attributes of the described one. None if no object was detected."""
    return max(objects, key=lambda seen: _likeness(thing, seen), default=None)


def _relation(first: DetectedObject, second: DetectedObject) -> str:
    """Return the relation of the first object to the second, along the axis on which their distance is larger."""
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dy) > abs(dx):
        return "above" if dy > 0 else "below"
    return "left of" if dx > 0 else "right of"


def _pair_parts(scene: Scene, objects: Sequence[DetectedObject]) -> list[Part]:
    """Check two objects and their relation.

    The described objects are compared with the two detected objects that are most similar to them. If several pairs are
    equally similar, a pair with the described relation is taken.
    """
    expected = "above" if scene.arrangement == "vertical" else "left of"
    if len(objects) < 2:
        first, second = scene.objects
        only = objects[0] if objects else None
        takes_first = only is None or _likeness(first, only) >= _likeness(second, only)
        parts = _thing_parts(first, only if takes_first else None, " 1")
        parts += _thing_parts(second, None if takes_first else only, " 2")
        return [*parts, Part("relation", expected, NOTHING)]

    def merit(pair: tuple[DetectedObject, DetectedObject]) -> tuple[int, bool]:
        likeness = sum(_likeness(thing, seen) for thing, seen in zip(scene.objects, pair, strict=True))
        return likeness, _relation(*pair) == expected

    first_seen, second_seen = max(permutations(objects[:6], 2), key=merit)
    parts = _thing_parts(scene.objects[0], first_seen, " 1") + _thing_parts(scene.objects[1], second_seen, " 2")
    return [*parts, Part("relation", expected, _relation(first_seen, second_seen))]


def _group_parts(scene: Scene, objects: Sequence[DetectedObject]) -> list[Part]:
    """Check the attributes of a group, whose objects should be equal. A found attribute is "mixed" if they differ."""
    thing = scene.objects[0]

    def common(names: set[str]) -> str:
        return NOTHING if not names else names.pop() if len(names) == 1 else "mixed"

    colour, shape = common({seen.colour for seen in objects}), common({seen.shape for seen in objects})
    return [Part("colour", thing.colour, colour), Part("shape", thing.shape, shape)]


def _stack_parts(scene: Scene, objects: Sequence[DetectedObject]) -> list[Part]:
    """Check objects from top to bottom. In a stack each object is above the next rather than next to it."""
    ordered = sorted(objects, key=lambda seen: seen.y)
    places = [ordered[i] if i < len(ordered) else None for i in range(len(scene.objects))]
    upright = all(_relation(a, b) == "above" for a, b in pairwise(ordered))
    parts = [Part("arrangement", "stack", "stack" if upright else "scattered")]
    for number, (thing, seen) in enumerate(zip(scene.objects, places, strict=True), start=1):
        parts += _thing_parts(thing, seen, f" {number}")
    return parts


def _sign_parts(scene: Scene, detected: DetectedScene) -> list[Part]:
    board = next((seen for seen in detected.objects if seen.shape == "sign"), None)
    return [
        Part("colour", scene.objects[0].colour, board.colour if board else NOTHING),
        Part("word", str(scene.word), NOTHING if detected.word is None else detected.word),
    ]
