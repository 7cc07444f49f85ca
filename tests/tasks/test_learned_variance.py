"""The smallest config of a learned variance trains for 10,000 steps, and no update is skipped as not finite."""

from pathlib import Path

import numpy as np
import pytest

from dalle_jax.commands.train import train_stage
from dalle_jax.config.bind import load
from dalle_jax.runs import TrainRun
from dalle_jax.text.sentencepiece import train_sentencepiece

CONFIG = Path(__file__).parents[2] / "configs" / "smoke" / "pixel_decoder.gin"


@pytest.mark.slow
def test_ten_thousand_steps_of_a_learned_variance_skip_no_update(tmp_path):
    words = tmp_path / "text.model"
    words.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    sets = [f"task.captions.file='{words}'", "task.model.vocab_size=30", "trainer.steps=10000", "trainer.log_every=500"]
    sets += ["data.source.count=100000", "trainer.evaluate_every=10000", "trainer.images_every=None"]
    run: TrainRun = load(str(CONFIG), TrainRun, sets)
    assert run.task.model.learned_variance and type(run.task.training.times).__name__ == "ImportanceTimes"
    result = train_stage(run, tmp_path / "run")
    assert (result.step, result.skipped) == (10_000, 0)
    assert np.isfinite(result.metrics["loss"]) and result.metrics["loss"] < 0.2  # 1.0 at first
