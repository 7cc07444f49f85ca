"""The grammar of captions: every phrasing of a scene, and the scene that a phrasing describes.

Phrasings are templates with slots, one list per level. ``captions`` fills the templates and ``parse`` matches them, so
both know the same phrasings.
"""

import re

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.scenes.scene import COLOURS, LETTERS, SHAPES, Arrangement, Scene, SceneObject
from dalle_jax.scenes.split import is_held_out, sample_scene

__all__ = ["Scene", "SceneObject", "caption", "captions", "is_held_out", "parse", "sample_scene"]

SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
NUMBER_WORDS = {"two": 2, "three": 3, "four": 4}
FORWARD = {"vertical": ("above", "over"), "horizontal": ("left of", "to the left of")}
BACKWARD = {"vertical": ("below", "under"), "horizontal": ("right of", "to the right of")}
PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}

PHRASINGS: dict[int, tuple[str, ...]] = {
    1: (
        "a {size} {colour} {shape}",
        "one {size} {colour} {shape}",
        "there is a {size} {colour} {shape}",
        "a picture of a {size} {colour} {shape}",
        "a {colour} {shape} that is {size}",
    ),
    2: (
        "{a} {relation} {b}",
        "{a} is {relation} {b}",
        "there is {a} {relation} {b}",
        "a picture of {a} {relation} {b}",
    ),
    3: (
        "{number} {colour} {shapes}",
        "there are {number} {colour} {shapes}",
        "a picture of {number} {colour} {shapes}",
        "{number} {shapes}, all of them {colour}",
    ),
    4: (
        "a stack of {a}, {b} and {c}",
        "{a} on top of {b} on top of {c}",
        "from top to bottom: {a}, {b}, {c}",
        "from bottom to top: {c}, {b}, {a}",
    ),
    5: (
        "{a} on a {background} background",
        "{a} in front of a {background} background",
        "a {background} background with {a} on it",
        "a picture of {a} on a {background} background",
    ),
    6: (
        'a {colour} sign that says "{word}"',
        'the word "{word}" on a {colour} sign',
        'a {colour} sign with the word "{word}"',
        '"{word}" written on a {colour} sign',
    ),
}


def captions(scene: Scene) -> list[str]:
    """List every phrasing of a scene, without duplicates, in a fixed order."""
    return [_fill(phrasing, slots) for slots in _slots(scene) for phrasing in PHRASINGS[scene.level]]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Draw one of the scene's phrasings uniformly."""
    slots = _slots(scene)
    phrasings = PHRASINGS[scene.level]
    return _fill(phrasings[int(rng.integers(len(phrasings)))], slots[int(rng.integers(len(slots)))])


def parse(caption: str) -> Scene:
    """Return the scene that a caption describes. Case, spacing and a final full stop do not matter.

    Raises ``UserError`` for a sentence outside the grammar.
    """
    text = " ".join(caption.lower().split()).rstrip(". ")
    for level, patterns in _PATTERNS.items():
        for pattern in patterns:
            found = pattern.fullmatch(text)
            if found is not None:
                return _scene(level, found.groupdict())
    examples = "; ".join(captions(_EXAMPLES[level])[0] for level in PHRASINGS)
    raise UserError(f"expected a caption in the grammar of the scenes, got {caption!r}; legal captions are: {examples}")


def _fill(phrasing: str, slots: dict[str, str]) -> str:
    return phrasing.format_map(slots)


def _name(thing: SceneObject) -> str:
    return f"a {thing.colour} {thing.shape}"


def _slots(scene: Scene) -> list[dict[str, str]]:
    """Return the values that fill the slots of a phrasing, such as ``colour``: one dict for each choice of synonyms."""
    first = scene.objects[0]
    match scene.level:
        case 1:
            words = SIZE_WORDS[str(first.size)]
            return [{"size": word, "colour": first.colour, "shape": first.shape} for word in words]
        case 2:
            a, b = map(_name, scene.objects)
            forward = [{"a": a, "relation": relation, "b": b} for relation in FORWARD[scene.arrangement]]
            return forward + [{"a": b, "relation": relation, "b": a} for relation in BACKWARD[scene.arrangement]]
        case 3:
            number = {count: word for word, count in NUMBER_WORDS.items()}[len(scene.objects)]
            return [{"number": number, "colour": first.colour, "shapes": PLURALS[first.shape]}]
        case 4:
            return [dict(zip("abc", map(_name, scene.objects), strict=True))]
        case 5:
            return [{"a": _name(first), "background": str(scene.background)}]
        case _:
            return [{"colour": first.colour, "word": str(scene.word)}]


def _compile(phrasing: str) -> re.Pattern[str]:
    relations = [word for words in (*FORWARD.values(), *BACKWARD.values()) for word in words]
    options = {
        "size": [word for words in SIZE_WORDS.values() for word in words],
        "colour": list(COLOURS),
        "background": list(COLOURS),
        "shape": list(SHAPES),
        "shapes": list(PLURALS.values()),
        "number": list(NUMBER_WORDS),
        "relation": sorted(relations, key=len, reverse=True),
    }
    groups = {slot: f"(?P<{slot}>{'|'.join(words)})" for slot, words in options.items()}
    groups["word"] = f"(?P<word>[{LETTERS.lower()}]{{1,3}})"
    for slot in "abc":
        groups[slot] = f"a (?P<{slot}_colour>{'|'.join(COLOURS)}) (?P<{slot}_shape>{'|'.join(SHAPES)})"
    return re.compile(phrasing.format_map(groups).replace('"', '"?'))


def _scene(level: int, found: dict[str, str]) -> Scene:
    """Build the scene from the text that each slot of a matched phrasing has."""
    things = {
        slot: SceneObject(found[f"{slot}_colour"], found[f"{slot}_shape"])
        for slot in "abc"
        if f"{slot}_colour" in found
    }
    match level:
        case 1:
            size = next(size for size, words in SIZE_WORDS.items() if found["size"] in words)
            return Scene(1, "single", (SceneObject(found["colour"], found["shape"], size),))
        case 2:
            relation = found["relation"]
            axis: Arrangement = "vertical" if relation in FORWARD["vertical"] + BACKWARD["vertical"] else "horizontal"
            order = "ab" if relation in FORWARD[axis] else "ba"
            return Scene(2, axis, tuple(things[slot] for slot in order))
        case 3:
            shape = next(shape for shape, plural in PLURALS.items() if plural == found["shapes"])
            return Scene(3, "group", (SceneObject(found["colour"], shape),) * NUMBER_WORDS[found["number"]])
        case 4:
            return Scene(4, "stack", (things["a"], things["b"], things["c"]))
        case 5:
            return Scene(5, "single", (things["a"],), background=found["background"])
        case _:
            return Scene(6, "sign", (SceneObject(found["colour"], "sign"),), word=found["word"].upper())


_PATTERNS = {level: tuple(_compile(phrasing) for phrasing in phrasings) for level, phrasings in PHRASINGS.items()}
_RED, _BLUE, _GREEN = SceneObject("red", "circle"), SceneObject("blue", "square"), SceneObject("green", "triangle")
_EXAMPLES = {
    1: Scene(1, "single", (SceneObject("red", "circle", "small"),)),
    2: Scene(2, "vertical", (_RED, _BLUE)),
    3: Scene(3, "group", (_RED, _RED)),
    4: Scene(4, "stack", (_RED, _BLUE, _GREEN)),
    5: Scene(5, "single", (_RED,), background="blue"),
    6: Scene(6, "sign", (SceneObject("red", "sign"),), word="CAT"),
}
