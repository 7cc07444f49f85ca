"""Hard negatives of captioned scenes, from the grammar of their captions."""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.scenes.grammar import captions, parse
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import Scene
from dalle_jax.scenes.scene_neighbours import CACHED, seen_neighbours
from dalle_jax.tasks.negatives.hard_negatives import Neighbour


@dataclass(frozen=True)
class SceneNegatives:
    """Hard negatives of a scene are its neighbours, which differ in one part or in the order of its parts.

    The kinds of change are equally frequent (scenes/scene_neighbours.py). Scenes with held-out combinations are left
    out, so training neither shows nor names them.

    - ``texts``: wrong captions of each caption, in the same phrasing (NegCLIP, arXiv 2210.01936, section 4).
    - ``images``: rendered neighbours of each example. They join the batch with a caption of their own.
    - ``blends``: images of the scene in which one object is cut in two, and one half is that of a neighbour with a
      different shape (of a sign, a different colour). No caption describes them: they are further images in the
      softmax of the example's caption and of its neighbours' captions.
    """

    texts: int = 3
    images: int = 0
    blends: int = 0

    def __post_init__(self) -> None:
        for name, value in (("texts", self.texts), ("images", self.images), ("blends", self.blends)):
            if value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if not self.texts and not self.images and not self.blends:
            raise ValueError("texts, images, blends: expected one above 0, got none; set negatives = None for none")

    def open(self) -> "SceneNegatives":
        """Return self, which needs no files."""
        return self

    def wrong_captions(self, caption: str, seed: int) -> list[str]:
        """Return captions of neighbours. Raise ``UserError`` for a caption outside the grammar."""
        scene, phrasing = _read(caption)
        return [captions_of(one)[phrasing] for one in _drawn(scene, self.texts, random.Random(seed))]

    def neighbours(self, caption: str, size: int, seed: int) -> list[Neighbour]:
        """Render neighbours. Raise ``UserError`` for a caption outside the grammar."""
        scene, phrasing = _read(caption)
        found = []
        for number, one in enumerate(_drawn(scene, self.images, random.Random(seed))):
            image = render(one, size, np.random.default_rng((seed, number)))
            found.append(Neighbour(image, captions_of(one)[phrasing], captions_of(one)))
        return found

    def blended(self, caption: str, size: int, seed: int) -> list[UInt8[np.ndarray, "S S 3"]]:
        """Render blends. Raise ``UserError`` for a caption outside the grammar."""
        scene, found = _read(caption)[0], []
        for number in range(self.blends):
            rng = random.Random(f"{seed} {number}")
            near = seen_neighbours(scene)
            other, places = rng.choice(near.get("shape") or near["colour"]), rng.randrange(1 << 32)
            own, theirs = (render(one, size, np.random.default_rng(places)) for one in (scene, other))
            found.append(_halves(own, theirs, axis=rng.randrange(2)))
        return found


def _halves(own: UInt8[np.ndarray, "S S 3"], theirs: UInt8[np.ndarray, "S S 3"], axis: int) -> np.ndarray:
    """Return the first image up to the middle of the part where two images differ, and then the second."""
    differs = np.flatnonzero((own != theirs).any(axis=(1 - axis, 2)))
    middle = (differs[0] + differs[-1] + 1) // 2
    first, second = np.take(own, range(middle), axis), np.take(theirs, range(middle, len(own)), axis)
    return np.concatenate([first, second], axis)


@lru_cache(maxsize=CACHED)
def _read(caption: str) -> tuple[Scene, int]:
    """Return the scene of a caption, and the place of its phrasing in ``captions``."""
    scene = parse(caption)
    listed = captions_of(scene)
    return scene, listed.index(caption) if caption in listed else 0


@lru_cache(maxsize=CACHED)
def captions_of(scene: Scene) -> tuple[str, ...]:
    """Return all captions of a scene; scenes of one level have the same phrasings in the same order."""
    return tuple(captions(scene))


def _drawn(scene: Scene, count: int, rng: random.Random) -> list[Scene]:
    """Draw neighbours, no kind of change twice before each has come once."""
    kinds, found = list(seen_neighbours(scene).values()), list[Scene]()
    while len(found) < count:
        rng.shuffle(kinds)
        found += [rng.choice(scenes) for scenes in kinds[: count - len(found)]]
    return found
