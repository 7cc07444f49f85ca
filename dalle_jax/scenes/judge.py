"""Is a caption true of a picture? Looks at pixels alone, and answers part by part."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
from jaxtyping import UInt8

from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.perceive import Reading, Seen, perceive
from dalle_jax.scenes.scene import Scene, Thing

__all__ = ["Judgement", "Part", "Reading", "Seen", "judge", "judge_batch", "judge_scene", "read"]

NOTHING = "nothing"


@dataclass(frozen=True)
class Part:
    """One thing that a caption claims, and what the picture shows in its place."""

    name: str
    expected: str
    found: str

    @property
    def right(self) -> bool:
        """Whether the picture shows what the caption claims."""
        return self.expected == self.found


@dataclass(frozen=True)
class Judgement:
    """A caption held against a picture: right when every part is. ``reading`` is all that was seen."""

    caption: str
    parts: tuple[Part, ...]
    reading: Reading

    @property
    def right(self) -> bool:
        """Whether the caption is true of the picture."""
        return all(part.right for part in self.parts)


def read(image: UInt8[np.ndarray, "size size 3"]) -> Reading:
    """What is in a picture, and where."""
    return perceive(image)


def judge(image: UInt8[np.ndarray, "size size 3"], caption: str) -> Judgement:
    """Hold a caption against a picture. Raises ``UserError`` for a caption outside the grammar."""
    return judge_scene(perceive(image), parse(caption), caption)


def judge_batch(images: Sequence[np.ndarray], captions: Sequence[str]) -> list[Judgement]:
    """``judge`` for each picture and its caption."""
    scenes = {caption: parse(caption) for caption in set(captions)}
    return [
        judge_scene(perceive(image), scenes[caption], caption) for image, caption in zip(images, captions, strict=True)
    ]


def judge_scene(reading: Reading, scene: Scene, caption: str) -> Judgement:
    """Hold what a caption describes against what was seen. An object too many makes a caption false."""
    count = Part("count", str(len(scene.objects)), str(len(reading.objects)))
    background = Part("background", scene.background or "plain", reading.background)
    if scene.arrangement == "sign":
        parts = _sign_parts(scene, reading)
    elif scene.arrangement == "group":
        parts = _group_parts(scene, reading.objects)
    elif scene.arrangement == "stack":
        parts = _stack_parts(scene, reading.objects)
    elif scene.arrangement == "single":
        parts = _thing_parts(scene.objects[0], _nearest(scene.objects[0], reading.objects), "")
    else:
        parts = _pair_parts(scene, reading.objects)
    return Judgement(caption, (*parts, count, background), reading)


def _thing_parts(thing: Thing, seen: Seen | None, suffix: str) -> list[Part]:
    parts = [
        Part("colour" + suffix, thing.colour, seen.colour if seen else NOTHING),
        Part("shape" + suffix, thing.shape, seen.shape if seen else NOTHING),
    ]
    if thing.size is not None:
        parts.append(Part("size" + suffix, thing.size, seen.size if seen else NOTHING))
    return parts


def _likeness(thing: Thing, seen: Seen) -> int:
    return (thing.colour == seen.colour) + (thing.shape == seen.shape)


def _nearest(thing: Thing, objects: Sequence[Seen]) -> Seen | None:
    """The seen object that is most like what was asked for."""
    return max(objects, key=lambda seen: _likeness(thing, seen), default=None)


def _relation(first: Seen, second: Seen) -> str:
    """How the first stands to the second, along the axis on which they are farther apart."""
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dy) > abs(dx):
        return "above" if dy > 0 else "below"
    return "left of" if dx > 0 else "right of"


def _pair_parts(scene: Scene, objects: Sequence[Seen]) -> list[Part]:
    """Both objects, matched with what is most like them (and stands as said, where that leaves a choice)."""
    expected = "above" if scene.arrangement == "vertical" else "left of"
    if len(objects) < 2:
        first, second = scene.objects
        only = objects[0] if objects else None
        takes_first = only is None or _likeness(first, only) >= _likeness(second, only)
        parts = _thing_parts(first, only if takes_first else None, " 1")
        parts += _thing_parts(second, None if takes_first else only, " 2")
        return [*parts, Part("relation", expected, NOTHING)]

    def merit(pair: tuple[Seen, Seen]) -> tuple[int, bool]:
        likeness = sum(_likeness(thing, seen) for thing, seen in zip(scene.objects, pair, strict=True))
        return likeness, _relation(*pair) == expected

    first_seen, second_seen = max(permutations(objects[:6], 2), key=merit)
    parts = _thing_parts(scene.objects[0], first_seen, " 1") + _thing_parts(scene.objects[1], second_seen, " 2")
    return [*parts, Part("relation", expected, _relation(first_seen, second_seen))]


def _group_parts(scene: Scene, objects: Sequence[Seen]) -> list[Part]:
    """What the objects have in common; "mixed" where they differ."""
    thing = scene.objects[0]

    def common(names: set[str]) -> str:
        return NOTHING if not names else names.pop() if len(names) == 1 else "mixed"

    colour, shape = common({seen.colour for seen in objects}), common({seen.shape for seen in objects})
    return [Part("colour", thing.colour, colour), Part("shape", thing.shape, shape)]


def _stack_parts(scene: Scene, objects: Sequence[Seen]) -> list[Part]:
    """Objects from top to bottom; a stack needs each to stand above the next rather than beside it."""
    ordered = sorted(objects, key=lambda seen: seen.y)
    places = [ordered[i] if i < len(ordered) else None for i in range(len(scene.objects))]
    upright = all(_relation(a, b) == "above" for a, b in pairwise(ordered))
    parts = [Part("arrangement", "stack", "stack" if upright else "scattered")]
    for number, (thing, seen) in enumerate(zip(scene.objects, places, strict=True), start=1):
        parts += _thing_parts(thing, seen, f" {number}")
    return parts


def _sign_parts(scene: Scene, reading: Reading) -> list[Part]:
    board = next((seen for seen in reading.objects if seen.shape == "sign"), None)
    return [
        Part("colour", scene.objects[0].colour, board.colour if board else NOTHING),
        Part("word", str(scene.word), NOTHING if reading.word is None else reading.word),
    ]
