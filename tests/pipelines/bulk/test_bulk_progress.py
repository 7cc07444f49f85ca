import numpy as np
import pytest
from PIL import Image

from dalle_jax.pipelines.bulk.bulk_progress import BulkProgress, LatestGrid, duration, peak_flops
from dalle_jax.pipelines.bulk.device_engine import DrawnPrompt
from dalle_jax.pipelines.request import Request, RequestOptions


def drawn(number: int, keep: int = 2) -> DrawnPrompt:
    request = Request("a red circle", RequestOptions(candidates=10, keep=keep))
    return DrawnPrompt(number, request, np.full((keep, 8, 8, 3), number, np.uint8), np.arange(keep), None)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_every_ten_seconds_has_the_rate_without_compiling_the_time_left_and_mfu(clock):
    said = []
    progress = BulkProgress(1000, said.append, flops_per_image=2e9, peak=1e11, clock=clock)
    clock.now = 60.0  # the first block compiles
    progress.add(drawn(0))
    assert said == ["10 of 1,000 images"]
    for number in range(1, 13):
        clock.now += 4.0
        progress.add(drawn(number))
    assert said[1:3] == [
        "40 of 1,000 images, 2.5 a second, 6 min left, MFU 5 %",
        "70 of 1,000 images, 2.5 a second, 6 min left, MFU 5 %",
    ]
    assert progress.images == 130 and progress.seconds == 108.0


def test_without_a_known_peak_there_is_no_mfu(clock):
    assert peak_flops() is None  # a CPU
    progress = BulkProgress(40, print, flops_per_image=None, peak=None, clock=clock)
    for number in range(2):
        clock.now += 1.0
        progress.add(drawn(number))
    assert progress.line() == "20 of 40 images, 10 a second, 2 s left"


def test_durations_are_in_words():
    assert [duration(one) for one in (12.4, 99.0, 600.0, 7200.0)] == ["12 s", "99 s", "10 min", "2.0 h"]


def test_the_grid_shows_the_latest_prompts_and_is_written_again_every_minute(clock, tmp_path):
    latest = LatestGrid(tmp_path, clock)
    for number in range(8):
        assert not (tmp_path / "grid.png").exists()
        latest.add(drawn(number, keep=1 + number % 2))
    first = np.asarray(Image.open(tmp_path / "grid.png"))
    latest.add(drawn(200))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grid.png")), first)
    clock.now = 61.0
    latest.add(drawn(201))
    second = np.asarray(Image.open(tmp_path / "grid.png"))
    assert not (first == 201).all(axis=-1).any() and (second == 201).all(axis=-1).any()
