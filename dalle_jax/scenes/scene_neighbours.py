"""Neighbours of a scene: scenes that differ from it in one part, or in the order of its parts."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from dalle_jax.scenes.scene import COLOURS, COUNTS, LETTERS, SHAPES, SIZES, Scene, SceneObject
from dalle_jax.scenes.split import is_held_out

CACHED = 1 << 14
"""The number of scenes whose neighbours are kept."""


@lru_cache(maxsize=CACHED)
def neighbours(scene: Scene) -> dict[str, tuple[Scene, ...]]:
    """Return the neighbours of a scene by the kind of change; no kind is empty, and no neighbour equals the scene.

    | kind | change |
    |---|---|
    | colour, shape, size, background | an object, or the background, has a different one |
    | count | a group has one object more or fewer, or two |
    | letter | one letter of the word is replaced |
    | swapped colours, swapped shapes | two objects next to each other exchange one attribute |
    | order | two objects, two letters, or object and background exchange their places |
    | direction | the pair stands in the other direction |
    """
    kinds: dict[str, Callable[[Scene], list[Scene]]] = {
        "colour": _colours, "shape": _shapes, "size": _sizes, "count": _counts, "background": _backgrounds,
        "letter": _letters, "swapped colours": _swapped_colours, "swapped shapes": _swapped_shapes, "order": _orders,
        "direction": _directions,
    }  # fmt: skip
    found = {
        kind: tuple(one for one in changed(scene) if one != scene and not _is_ambiguous(one))
        for kind, changed in kinds.items()
    }
    return {kind: scenes for kind, scenes in found.items() if scenes}


def _is_ambiguous(scene: Scene) -> bool:
    """Return True for a pair of equal objects, which look like a group."""
    return scene.level == 2 and scene.objects[0] == scene.objects[1]


@lru_cache(maxsize=CACHED)
def seen_neighbours(scene: Scene) -> dict[str, tuple[Scene, ...]]:
    """Return the ``neighbours`` without held-out combinations, so that a training may show and name them.

    A scene that is itself held out keeps all of them.
    """
    if is_held_out(scene):
        return neighbours(scene)
    found = {kind: tuple(one for one in all_ if not is_held_out(one)) for kind, all_ in neighbours(scene).items()}
    return {kind: scenes for kind, scenes in found.items() if scenes}


def _with_object(scene: Scene, place: int, thing: SceneObject) -> Scene:
    """Return the scene with another object at a place, or at all places of a group, whose objects are alike."""
    if scene.arrangement == "group":
        return replace(scene, objects=(thing,) * len(scene.objects))
    return replace(scene, objects=(*scene.objects[:place], thing, *scene.objects[place + 1 :]))


def _places(scene: Scene) -> range:
    return range(1 if scene.arrangement == "group" else len(scene.objects))


def _colours(scene: Scene) -> list[Scene]:
    return [
        _with_object(scene, place, replace(scene.objects[place], colour=colour))
        for place in _places(scene)
        for colour in COLOURS
        if colour != scene.background
    ]


def _shapes(scene: Scene) -> list[Scene]:
    if scene.arrangement == "sign":
        return []
    return [
        _with_object(scene, place, replace(scene.objects[place], shape=shape))
        for place in _places(scene)
        for shape in SHAPES
    ]


def _sizes(scene: Scene) -> list[Scene]:
    thing = scene.objects[0]
    return [] if thing.size is None else [_with_object(scene, 0, replace(thing, size=size)) for size in SIZES]


def _counts(scene: Scene) -> list[Scene]:
    if scene.arrangement != "group":
        return []
    return [replace(scene, objects=scene.objects[:1] * count) for count in COUNTS]


def _backgrounds(scene: Scene) -> list[Scene]:
    if scene.background is None:
        return []
    return [replace(scene, background=colour) for colour in COLOURS if colour != scene.objects[0].colour]


def _letters(scene: Scene) -> list[Scene]:
    word = scene.word or ""
    return [replace(scene, word=word[:at] + letter + word[at + 1 :]) for at in range(len(word)) for letter in LETTERS]


def _pairs(scene: Scene) -> range:
    """Return the places of objects that have a next one of their own kind."""
    return range(0 if scene.arrangement == "group" else len(scene.objects) - 1)


def _swapped_colours(scene: Scene) -> list[Scene]:
    found = []
    for at in _pairs(scene):
        first, second = scene.objects[at : at + 2]
        swapped = _with_object(scene, at, replace(first, colour=second.colour))
        found.append(_with_object(swapped, at + 1, replace(second, colour=first.colour)))
    return found


def _swapped_shapes(scene: Scene) -> list[Scene]:
    found = []
    for at in _pairs(scene):
        first, second = scene.objects[at : at + 2]
        swapped = _with_object(scene, at, replace(first, shape=second.shape))
        found.append(_with_object(swapped, at + 1, replace(second, shape=first.shape)))
    return found


def _orders(scene: Scene) -> list[Scene]:
    if scene.background is not None:
        thing = scene.objects[0]
        return [replace(scene, objects=(replace(thing, colour=scene.background),), background=thing.colour)]
    word = scene.word or ""
    words = [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(len(word) - 1)]
    objects = [
        (*scene.objects[:at], scene.objects[at + 1], scene.objects[at], *scene.objects[at + 2 :])
        for at in _pairs(scene)
    ]
    return [replace(scene, word=one) for one in words] + [replace(scene, objects=one) for one in objects]


def _directions(scene: Scene) -> list[Scene]:
    if scene.level != 2:
        return []
    return [replace(scene, arrangement="horizontal" if scene.arrangement == "vertical" else "vertical")]
