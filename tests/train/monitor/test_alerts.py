import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.train import metrics
from dalle_jax.train.monitor.detectors import Alerts, detectors
from dalle_jax.train.output.sample_sheet import one_colour
from dalle_jax.train.output.writers import Progress, Writers


def test_codebook_collapse_is_warned_of_once_and_again_after_a_recovery():
    watch, usage = Alerts(3, detectors()), "train/codebook/usage"
    assert watch.warnings(100, {usage: 0.01}) == []
    assert "CODEBOOK COLLAPSE: only 1.0% of the codes" in watch.warnings(300, {usage: 0.01})[0]
    assert watch.warnings(350, {"evaluation/psnr": 20.0}) == []
    assert watch.warnings(400, {usage: 0.01}) == []
    assert watch.warnings(500, {usage: 0.9}) == []
    assert len(watch.warnings(600, {usage: 0.02})) == 1


def test_too_many_skipped_updates_are_reported_and_end_the_run():
    watch = Alerts(3, ())
    assert "50% of the last updates were not finite" in watch.warnings(10, {"train/skipped": 0.5})[0]
    assert "20% of the last updates had a spike" in watch.warnings(10, {"train/skipped": 0.0, "train/spiked": 0.2})[0]
    watch.check(10, 2)
    with pytest.raises(UserError, match="lower learning rate"):
        watch.check(11, 3)


def test_sums_merge_by_adding_and_are_divided_once():
    first = {"a": (jnp.asarray(1.0), jnp.asarray(2.0))}
    second = {"a": (jnp.asarray(5.0), jnp.asarray(1.0)), "b": (jnp.asarray(3.0), jnp.asarray(0.0))}
    assert metrics.divide(metrics.merge(first, second)) == {"a": 2.0}


def test_a_metric_that_is_not_finite_is_written_as_null(tmp_path):
    writers = Writers(tmp_path, 0)
    writers.metrics(1, {"loss": float("nan"), "psnr": 20.0})
    writers.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "psnr": 20.0}


def test_images_of_one_colour_are_counted_for_any_colour_and_noise():
    rng = np.random.default_rng(0)
    noisy = np.array([0.9, 0.2, 0.4]) + 0.005 * rng.standard_normal((8, 8, 3))
    stripes = np.zeros((8, 8, 3))
    stripes[::2] = (0.5, 0.0, 0.0)
    drawn = np.stack([np.zeros((8, 8, 3)), noisy, stripes, rng.random((8, 8, 3))]).astype(np.float32)
    assert one_colour(drawn) == 0.5


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines():
    for stream, expected in ((Terminal(), "\r"), (io.StringIO(), "\n")):
        progress = Progress(0, 10, stream)
        progress.metrics(5, {"loss": 2.0})
        progress.step(5)
        assert "5/10  50%" in stream.getvalue() and "loss 2" in stream.getvalue()
        assert (expected == "\r") == ("█" in stream.getvalue())
        progress.close()
