"""A pipeline without networks: it renders a share of the captions truly and scores true images highest."""

import numpy as np

from dalle_jax.pipelines.request import Generation
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import render

SIDE = 32
WRONG = "a small red circle"


class FakePipeline:
    """All parts of a pipeline: candidates in ``right`` are true and score 1, others are ``WRONG`` and score 0."""

    def __init__(self, right: set[int]) -> None:
        self._right = right

    @property
    def side(self) -> int:
        return SIDE

    def reconstruct(self, images):
        return images

    def draw(self, requests):
        return [self._drawn(one) for one in requests]

    def similarity(self, images, texts):
        return self.image_vectors(images) @ self.text_vectors(texts).T

    def nats(self, images, texts):
        return np.array([float(len(text)) for text in texts])

    def text_vectors(self, texts):
        return self.image_vectors(np.stack([self._rendered(text) for text in texts]))

    def image_vectors(self, images):
        flat = images.reshape(len(images), -1).astype(np.float32) - 235.0
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def _rendered(self, caption):
        return render(parse(caption), SIDE, np.random.default_rng(0))

    def _drawn(self, request):
        numbers = range(request.options.first, request.options.first + request.options.candidates)
        candidates = np.stack([self._rendered(request.prompt if i in self._right else WRONG) for i in numbers])
        scores = np.array([float(i in self._right) for i in numbers], np.float32)
        chosen = np.argsort(-scores, kind="stable")[: request.options.kept]
        return Generation(request.prompt, candidates[chosen], scores[chosen], chosen, candidates, scores)
