import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.pipelines.ranker import best_candidates, choice_among_first


def test_the_best_come_first():
    scores = np.array([[0.1, 0.9, 0.5], [3.0, 1.0, 2.0]])
    assert best_candidates(scores, keep=2).tolist() == [[1, 2], [0, 2]]


def test_ties_go_to_the_smaller_index():
    scores = np.array([[1.0, 2.0, 2.0, 1.0, 2.0]])
    assert best_candidates(scores, keep=5).tolist() == [[1, 2, 4, 0, 3]]


def test_nan_ranks_below_every_number():
    scores = np.array([[np.nan, -np.inf, 0.0], [np.nan, np.nan, np.nan]])
    assert best_candidates(scores, keep=3).tolist() == [[2, 1, 0], [0, 1, 2]]


@pytest.mark.parametrize("keep", [0, -1, 4])
def test_keeping_no_candidate_or_more_than_there_are_is_an_error(keep):
    with pytest.raises(ValueError, match=rf"keep: expected .* \(3\), got {keep}"):
        best_candidates(np.zeros((2, 3)), keep=keep)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.booleans())
def test_choice_among_the_first_n_is_the_argmax_of_the_first_n(seed, candidates, coarse):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (4, candidates)).astype(float) if coarse else rng.normal(size=(4, candidates))
    choices = choice_among_first(scores)
    assert list(choices) == [n for n in (1, 4, 16, 64) if n <= candidates]
    assert choices[1].tolist() == [0, 0, 0, 0]
    for n, choice in choices.items():
        assert choice.tolist() == scores[:, :n].argmax(axis=1).tolist()


def test_candidates_after_the_first_n_do_not_change_the_choice():
    scores = np.array([[0.2, 0.1, 0.3, 0.0, 9.0]])
    assert choice_among_first(scores, counts=(1, 4))[4].tolist() == [2]
