"""The split by combination: held-out combinations never occur in training scenes.

A scene of any level is held out if it contains at least one held-out combination:

    colour with shape                8 of 48   each colour once, each shape once or twice
    shape, axis, shape               9 of 72   axis: above or left of; a stack has three such pairs
    count with shape                 3 of 18   each count once
    background with object colour    8 of 56   each colour once on either side
    letter followed by letter       49 of 400  each letter two or three times on either side

Share of uniformly drawn scenes that are held out (checked by ``tests/scenes/test_split.py``):

    level   share   held-out combinations
    1       17 %    colour with shape
    2       40 %    colour with shape; shape, axis, shape
    3       31 %    colour with shape; count with shape
    4       62 %    colour with shape; shape, axis, shape
    5       29 %    colour with shape; background with object colour
    6       11 %    letter followed by letter; words of one letter are never held out

About half of the held-out combinations are prompted ones. Training by rewards may use their captions as prompts, but
never sees an image of them (docs/rewards.md). A held-out scene is "prompted" if all its held-out combinations are,
and "unnamed" if any is not.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from dalle_jax.scenes.scene import COLOURS, COUNTS, LETTERS, SHAPES, SIZES, Scene, SceneObject, Split

_COLOURS = tuple(COLOURS)

HELD_OUT_COLOUR_SHAPE = frozenset(
    {
        ("red", "heart"),
        ("yellow", "square"),
        ("green", "ring"),
        ("cyan", "triangle"),
        ("blue", "circle"),
        ("purple", "cross"),
        ("pink", "square"),
        ("black", "triangle"),
    }
)
HELD_OUT_COUNT_SHAPE = frozenset({(2, "heart"), (3, "circle"), (4, "cross")})
# i + 3j + 5a = 3 mod 8 never holds for i = j, so equal objects next to each other (level 3) show none of these triples.
HELD_OUT_RELATION = frozenset(
    (first, axis, second)
    for i, first in enumerate(SHAPES)
    for a, axis in enumerate(("vertical", "horizontal"))
    for j, second in enumerate(SHAPES)
    if (i + 3 * j + 5 * a) % 8 == 3
)
HELD_OUT_BACKGROUND = frozenset((_COLOURS[b], _COLOURS[(b + 3) % len(_COLOURS)]) for b in range(len(_COLOURS)))
HELD_OUT_LETTERS = frozenset(
    first + second for i, first in enumerate(LETTERS) for j, second in enumerate(LETTERS) if (3 * i + 5 * j) % 8 == 1
)


Combination: TypeAlias = tuple[str, str] | tuple[int, str] | tuple[str, str, str] | str
"""A combination of attributes that can be held out, as in the sets above."""

HELD_OUT: frozenset[Combination] = frozenset(
    {*HELD_OUT_COLOUR_SHAPE, *HELD_OUT_COUNT_SHAPE, *HELD_OUT_RELATION, *HELD_OUT_BACKGROUND, *HELD_OUT_LETTERS}
)

PROMPTED: frozenset[Combination] = frozenset(
    {
        *(pair for pair in HELD_OUT_COLOUR_SHAPE if _COLOURS.index(pair[0]) % 2 == 0),
        *(triple for triple in HELD_OUT_RELATION if SHAPES.index(triple[0]) % 2 == 0),
        (2, "heart"),
        *(pair for pair in HELD_OUT_BACKGROUND if _COLOURS.index(pair[0]) % 2 == 0),
        *(pair for pair in HELD_OUT_LETTERS if LETTERS.index(pair[0]) % 2 == 0),
    }
)
"""The held-out combinations that prompts may name."""


def combinations(scene: Scene) -> Iterator[Combination]:
    """Yield each combination in the scene that could be held out; a group shows its colour and shape once."""
    shapes = [thing.shape for thing in scene.objects]
    if scene.word is not None:
        for i in range(len(scene.word) - 1):
            yield scene.word[i : i + 2]
        return
    grouped = scene.arrangement == "group"
    for thing in scene.objects[:1] if grouped else scene.objects:
        yield thing.colour, thing.shape
    if grouped:
        yield len(shapes), shapes[0]
    elif scene.arrangement in ("vertical", "horizontal", "stack"):
        axis = "horizontal" if scene.arrangement == "horizontal" else "vertical"
        for i in range(len(shapes)):
            for j in range(i + 1, len(shapes)):
                yield shapes[i], axis, shapes[j]
    elif scene.background is not None:
        yield scene.background, scene.objects[0].colour


def held_out_combinations(scene: Scene) -> list[Combination]:
    """Return the held-out combinations that a scene contains."""
    return [one for one in combinations(scene) if one in HELD_OUT]


def is_held_out(scene: Scene) -> bool:
    """Return True if any combination in the scene is held out. For a caption: ``is_held_out(parse(caption))``."""
    return any(one in HELD_OUT for one in combinations(scene))


def is_in_split(scene: Scene, split: Split) -> bool:
    """Return True if a scene belongs to a split."""
    found = held_out_combinations(scene)
    match split:
        case "train" | "validation":
            return not found
        case "held_out":
            return bool(found)
        case "prompted":
            return bool(found) and PROMPTED.issuperset(found)
        case "unnamed":
            return not PROMPTED.issuperset(found)


def sample_scene(level: int, rng: np.random.Generator, split: Split) -> Scene:
    """Draw a scene of a level, uniformly among those of the split.

    "train" and "validation" are the same set of scenes, for which callers use different seeds. "prompted" and "unnamed"
    are the two parts of "held_out".
    """
    while True:
        scene = _DRAW[level](rng)
        if is_in_split(scene, split):
            return scene


def _pick(rng: np.random.Generator, options: tuple) -> str:
    return options[int(rng.random() * len(options))]


def _thing(rng: np.random.Generator) -> SceneObject:
    return SceneObject(_pick(rng, _COLOURS), _pick(rng, SHAPES))


def _one(rng: np.random.Generator) -> Scene:
    return Scene(1, "single", (SceneObject(_pick(rng, _COLOURS), _pick(rng, SHAPES), _pick(rng, SIZES)),))


def _two(rng: np.random.Generator) -> Scene:
    first = second = _thing(rng)
    while second == first:  # equal objects would make the relation ambiguous
        second = _thing(rng)
    return Scene(2, "vertical" if rng.random() < 0.5 else "horizontal", (first, second))


def _count(rng: np.random.Generator) -> Scene:
    return Scene(3, "group", (_thing(rng),) * COUNTS[int(rng.random() * len(COUNTS))])


def _stack(rng: np.random.Generator) -> Scene:
    return Scene(4, "stack", (_thing(rng), _thing(rng), _thing(rng)))


def _background(rng: np.random.Generator) -> Scene:
    thing = _thing(rng)
    return Scene(5, "single", (thing,), background=_pick(rng, tuple(c for c in _COLOURS if c != thing.colour)))


def _sign(rng: np.random.Generator) -> Scene:
    letters = range(1 + int(rng.random() * 3))
    return Scene(
        6,
        "sign",
        (SceneObject(_pick(rng, _COLOURS), "sign"),),
        word="".join(_pick(rng, tuple(LETTERS)) for _ in letters),
    )


_DRAW = {1: _one, 2: _two, 3: _count, 4: _stack, 5: _background, 6: _sign}
