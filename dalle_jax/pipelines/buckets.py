"""Requests sampled in few calls of few shapes, and the best candidates of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from dalle_jax.pipelines.batching import call_size, prompts_together
from dalle_jax.pipelines.ranker import best_candidates
from dalle_jax.pipelines.request import Generation, Request

AnyRequest = TypeVar("AnyRequest", bound=Request)


class CallResult(NamedTuple):
    """The images [P M H W 3] of one call, and their scores [P M]: None without a ranker or without a text for CLIP.

    ``passes`` is the number of passes of a transformer; None for a diffusion model.
    """

    images: np.ndarray
    scores: np.ndarray | None
    passes: int | None = None


DrawCall: TypeAlias = Callable[[list[AnyRequest], int, int], CallResult]
"""``draw_call(requests, first, count)`` samples candidates ``first`` to ``first + count - 1`` of each request."""


def draw_in_buckets(
    requests: list[AnyRequest], batch: int, draw_call: DrawCall[AnyRequest], parts: int = 1
) -> list[Generation]:
    """Sample images for every request, in order.

    Requests of equal ``candidates``, ``first``, ``decoding``, ``window`` and ``ranker`` share calls. A call samples at
    most ``batch`` images, of numbers of prompts and candidates rounded up to powers of two, one of them to a multiple
    of ``parts``, the number of devices that share them (pipelines/batching.py).
    """
    drawn: dict[int, Generation] = {}
    kinds = [
        (one.candidates, one.first, one.decoding, one.window, one.ranker or "")
        for one in (request.options for request in requests)
    ]
    for kind in sorted(set(kinds)):
        alike = [i for i, own in enumerate(kinds) if own == kind]
        together = prompts_together(kind[0], batch, parts)
        for start in range(0, len(alike), together):
            rows = alike[start : start + together]
            bucket = _draw_bucket([requests[i] for i in rows], batch, draw_call, parts)
            for i, result in zip(rows, bucket, strict=True):
                drawn[i] = result
    return [drawn[i] for i in range(len(requests))]


def _draw_bucket(
    requests: list[AnyRequest], batch: int, draw_call: DrawCall[AnyRequest], parts: int
) -> list[Generation]:
    """Sample requests that share calls, a chunk of their candidates per call."""
    candidates, start = requests[0].options.candidates, requests[0].options.first
    prompts, chunk = call_size(len(requests), candidates, batch, parts)
    padded = requests + [replace(requests[-1], given_image=None)] * (prompts - len(requests))
    calls = [draw_call(padded, start + first, chunk) for first in range(0, candidates, chunk)]
    scored = [one.scores for one in calls if one.scores is not None]
    counts = [one.passes for one in calls if one.passes is not None]
    images = np.concatenate([one.images for one in calls], axis=1)[:, :candidates]  # [P M H W 3]
    every = None if not scored else np.concatenate(scored, axis=1)[:, :candidates]  # [P M]
    results = []
    for row, request in enumerate(requests):
        own = None if every is None or not request.is_ranked else every[row]
        keep = request.options.kept
        best = np.arange(keep) if own is None else best_candidates(own[None], keep)[0]
        results.append(
            Generation(
                prompt=request.title,
                pixels=images[row, best],
                scores=None if own is None else own[best],
                chosen=best,
                candidates=images[row],
                candidate_scores=own,
                passes=sum(counts) if counts else None,
            )
        )
    return results
