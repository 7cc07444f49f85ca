"""Accuracy of ``judge``: its verdicts on rendered images with captions that are known to be true or false."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from dalle_jax.scenes.grammar import Scene, SceneObject, sample_scene
from dalle_jax.scenes.judge import judge_scene
from dalle_jax.scenes.perceive import DetectedScene, perceive
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import COLOURS, COUNTS, LETTERS, SHAPES, SIZES

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Function from an image uint8 [H W 3] and a random generator to a degraded image."""

Value = TypeVar("Value", str, int)


@dataclass(frozen=True)
class AcceptanceRates:
    """Shares of captions that ``judge`` accepts; ideally 1 for true captions and 0 for both kinds of false ones.

    ``accepted_near``: captions that differ from a true one in exactly one attribute. ``accepted_random``: captions of
    random other scenes of the level.
    """

    accepted_true: float
    accepted_near: float
    accepted_random: float
    count: int


def measure_reader(
    level: int,
    size: int,
    count: int,
    seed: int,
    degrade: Degradation | None = None,
    read: Callable[[UInt8[np.ndarray, "size size 3"]], DetectedScene] = perceive,
) -> AcceptanceRates:
    """Render ``count`` scenes of a level and judge three captions of each: true, near miss, and of another scene.

    A third of the scenes are held-out combinations, the others are training combinations.
    """
    rng = np.random.default_rng((seed, level, size))
    accepted = np.zeros(3)
    for number in range(count):
        scene = sample_scene(level, rng, "held_out" if number % 3 == 0 else "train")
        image = render(scene, size, rng)
        detected = read(image if degrade is None else degrade(image, rng))
        other = sample_scene(level, rng, "train")
        while other == scene:
            other = sample_scene(level, rng, "train")
        claims = (scene, near_miss(scene, rng), other)
        accepted += [judge_scene(detected, claim, "").right for claim in claims]
    true, near, random = (accepted / count).tolist()
    return AcceptanceRates(true, near, random, count)


def blur_and_noise(image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Degrade an image about as much as a small VQ-VAE at 32 px does.

    - Gaussian blur with sigma 0.6 to 0.8 px at 32 px, scaled with the side
    - noise of standard deviation 6 (of 255), correlated between neighbouring pixels
    - a shift of each channel with standard deviation 4
    """
    sigma = rng.uniform(0.6, 0.8) * image.shape[0] / 32
    blurred = ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0))
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), (0.5, 0.5, 0))
    changed = blurred + noise * (6 / noise.std()) + rng.standard_normal(3) * 4
    return np.clip(changed + 0.5, 0, 255).astype(np.uint8)


def near_miss(scene: Scene, rng: np.random.Generator) -> Scene:
    """Change exactly one attribute of a scene to a different value."""
    while True:
        changed = _change(scene, rng)
        if changed != scene:
            return changed


def _other(rng: np.random.Generator, options: tuple[Value, ...], value: Value | None) -> Value:
    rest = [option for option in options if option != value]
    return rest[int(rng.integers(len(rest)))]


def _change_thing(thing: SceneObject, rng: np.random.Generator, attributes: tuple[str, ...]) -> SceneObject:
    attribute = attributes[int(rng.integers(len(attributes)))]
    options = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES}[attribute]
    return replace(thing, **{attribute: _other(rng, options, getattr(thing, attribute))})


def _change(scene: Scene, rng: np.random.Generator) -> Scene:
    first = scene.objects[0]
    if scene.level == 1:
        return replace(scene, objects=(_change_thing(first, rng, ("colour", "shape", "size")),))
    if scene.level == 6:
        word = str(scene.word)
        if rng.random() < 0.25:
            return replace(scene, objects=(_change_thing(first, rng, ("colour",)),))
        place = int(rng.integers(len(word)))
        return replace(scene, word=word[:place] + _other(rng, tuple(LETTERS), word[place]) + word[place + 1 :])
    if scene.level == 3:
        if rng.random() < 1 / 3:
            return replace(scene, objects=(first,) * _other(rng, COUNTS, len(scene.objects)))
        return replace(scene, objects=(_change_thing(first, rng, ("colour", "shape")),) * len(scene.objects))
    if scene.level == 2 and rng.random() < 1 / 3:
        if rng.random() < 0.5:
            return replace(scene, objects=scene.objects[::-1])
        return replace(scene, arrangement="horizontal" if scene.arrangement == "vertical" else "vertical")
    if scene.level == 5 and rng.random() < 1 / 3:
        return replace(scene, background=_other(rng, tuple(COLOURS), scene.background))
    place = int(rng.integers(len(scene.objects)))
    things = list(scene.objects)
    things[place] = _change_thing(things[place], rng, ("colour", "shape"))
    return replace(scene, objects=tuple(things))
