import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle_jax.evaluate.metrics.shares import Z_95, Share, share_of


def test_the_interval_equals_a_published_example_of_wilsons():
    # 8 of 10, worked by hand in Brown, Cai and DasGupta's form; the usual tables give (0.4902, 0.9433)
    low, high = Share(8, 10).interval
    assert low == pytest.approx(0.49016, abs=1e-5)
    assert high == pytest.approx(0.94332, abs=1e-5)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_ends_of_the_interval_solve_the_score_equation(count, part):
    share = Share(round(part * count), count)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1
    for end in (low, high):
        assert (share.value - end) ** 2 == pytest.approx(Z_95**2 * end * (1 - end) / count, abs=1e-9)


def test_a_share_of_nothing_has_no_value():
    assert Share(0, 0).value is None
    assert Share(0, 0).interval is None


@pytest.mark.parametrize(("right", "count"), [(-1, 2), (3, 2)])
def test_more_right_outcomes_than_outcomes_are_refused(right, count):
    with pytest.raises(ValueError, match=f"expected 0 <= right <= count, got right = {right}, count = {count}"):
        Share(right, count)


def test_shares_count_true_outcomes_and_add():
    assert share_of([True, False, True]) + share_of([]) + share_of([True]) == Share(3, 4)
