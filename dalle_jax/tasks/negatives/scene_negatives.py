"""Hard negatives of captioned scenes, from the grammar of their captions."""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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
    """

    texts: int = 3
    images: int = 0

    def __post_init__(self) -> None:
        for name, value in (("texts", self.texts), ("images", self.images)):
            if value < 0:
                raise ValueError(f"{name}: expected 0 or more, got {value}")
        if not self.texts and not self.images:
            raise ValueError(
                "texts, images: expected at least one of them above 0, got 0 and 0; for none, negatives = None"
            )

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
