"""The Inception Score is its formula in each split, and sums merge."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import priorities
from dalle_jax.evaluate.metrics.distributions.inception_score import ClassRows, InceptionScore

CLASSES = 7


def probabilities(count, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(CLASSES, 0.3), size=count)


def score_of(rows, splits, parts=1):
    out = InceptionScore("inception-v3 sha256:0", CLASSES, splits)
    for part in range(parts):
        other = InceptionScore("inception-v3 sha256:0", CLASSES, splits)
        other.update(ClassRows(np.arange(part, len(rows), parts), rows[part::parts]))
        out.merge(other)
    return out


def by_formula(rows):
    q = rows.mean(axis=0)
    return np.exp((rows * np.log(rows / q)).sum(axis=1).mean())


def test_the_score_is_its_formula():
    rows = probabilities(200)
    (found,) = score_of(rows, splits=1).result()
    assert found.value == pytest.approx(by_formula(rows), rel=1e-9)
    assert found.interval is None and found.count == 200
    (found,) = score_of(rows, splits=4).result()
    split = priorities(np.arange(200)).astype(np.uint64) % np.uint64(4)
    each = [by_formula(rows[split == index]) for index in range(4)]
    assert found.value == pytest.approx(np.mean(each), rel=1e-9)
    assert found.interval[0] < by_formula(rows) < found.interval[1] + 0.1


def test_merged_scores_are_the_whole():
    rows = probabilities(200)
    whole, merged = score_of(rows, 4).result()[0], score_of(rows, 4, parts=3).result()[0]
    assert merged.value == pytest.approx(whole.value, rel=1e-12)
    whole = score_of(rows, 4)
    assert InceptionScore("inception-v3 sha256:0", CLASSES, 4).from_arrays(whole.arrays()).result() == whole.result()


def test_certain_and_equally_frequent_classes_give_their_number_and_one_class_gives_one():
    assert score_of(np.eye(CLASSES)[np.arange(700) % CLASSES], 1).result()[0].value == pytest.approx(CLASSES)
    assert score_of(np.eye(CLASSES)[np.zeros(700, int)], 1).result()[0].value == pytest.approx(1)


def test_rows_that_are_no_probabilities_and_few_images_are_refused():
    with pytest.raises(
        UserError, match="is: expected probabilities that sum to 1, got a sum of nan for image number 1"
    ):
        score_of(np.where(np.arange(2)[:, None] == 1, np.nan, probabilities(2)), 1)
    with pytest.raises(UserError, match=r"is: expected probabilities \[3, 7\], got \[3, 6\]"):
        score_of(probabilities(3)[:, :6], 1)
    with pytest.raises(UserError, match="is: expected at least 20 generated images"):
        score_of(probabilities(19), 10).result()
