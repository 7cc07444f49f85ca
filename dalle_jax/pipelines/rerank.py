"""From the scores of every candidate to the ones that are kept: pure functions on the host.

A score is whatever ranks candidates of one prompt, larger is better (here CLIP's cosine of image and caption). Ties
go to the smaller index, so that the choice is the same on every machine; NaN ranks below every number.
"""

from collections.abc import Sequence

import numpy as np

from dalle_jax.arrays import Float, Int

CANDIDATE_COUNTS = (1, 4, 16, 64)
"""Numbers of candidates for which the gain from reranking is reported."""


def best_candidates(scores: Float[np.ndarray, "P M"], keep: int) -> Int[np.ndarray, "P k"]:
    """The indices of each prompt's ``keep`` best candidates, best first.

    Raises ValueError where ``keep`` is not between 1 and M.
    """
    available = scores.shape[1]
    if not 1 <= keep <= available:
        raise ValueError(f"keep = {keep}: expected between 1 and the number of candidates, which is {available}")
    return np.argsort(-scores, axis=1, kind="stable")[:, :keep]  # numpy sorts NaN last


def choice_among_first(
    scores: Float[np.ndarray, "P M"], counts: Sequence[int] = CANDIDATE_COUNTS
) -> dict[int, Int[np.ndarray, " P"]]:
    """Which candidate would have been chosen had only the first n been drawn, for every n of ``counts`` up to M.

    The key 1 is the first candidate, chosen by nothing. Candidates have a key each, so the first n of M images are
    the n images that a request for n would have given.
    """
    return {n: best_candidates(scores[:, :n], keep=1)[:, 0] for n in counts if n <= scores.shape[1]}
