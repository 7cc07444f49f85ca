import pytest

from dalle_jax.sampling.decoding import choose_window


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090"])
def test_auto_is_sequential_on_a_cpu_and_on_a_chip_of_unknown_balance(kind):
    assert choose_window("auto", 16, 1, kind) == 1


@pytest.mark.parametrize(
    ("rows", "window"), [(1, 16), (12, 16), (13, 8), (25, 8), (26, 4), (103, 2), (104, 1), (1000, 1)]
)
def test_auto_keeps_rows_times_window_within_the_balance_of_an_h200(rows, window):
    assert choose_window("auto", 16, rows, "NVIDIA H200") == window


def test_auto_takes_at_most_the_window_that_is_asked_for():
    assert choose_window("auto", 6, 1, "TPU v5e") == 4


def test_a_choice_by_name_is_kept_on_every_device():
    assert choose_window("jacobi", 6, 1000, "cpu") == 6
    assert choose_window("sequential", 16, 1, "NVIDIA H200") == 1
