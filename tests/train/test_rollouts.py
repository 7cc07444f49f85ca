"""Runs of a toy task that trains on samples of its own module, two steps on each rollout."""

import contextlib
import io
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.train.checkpoints.checkpoints import whole_steps
from dalle_jax.train.output.writers import read_lines
from dalle_jax.train.task import JudgedRollout, RolloutInputs, TrainsOnSamples
from tests.train.runs import StopsAt, run
from tests.train.toy import Lines, Toy, layout, leaves

STEPS = {"steps": 6, "log_every": 2, "evaluate_every": 6, "save_every": 2, "images_every": None}


@dataclass(frozen=True)
class Sampling(Toy):
    """Regression to samples of the module itself, whose reward is their mean."""

    updates: int = 2

    def rollout_inputs(self, examples, seeds):
        return RolloutInputs(tuple(map(str, seeds)), {"x": np.stack(examples["x"]).astype(np.float32)})

    def rollout(self, module, frozen, batch, key):
        noise = jax.random.normal(key, (*batch["x"].shape, 3))
        return {"x": batch["x"][..., None] + noise, "y": module.predict(batch["x"])}

    def judge(self, prompts, samples):
        if len(prompts) != len(samples["x"]):
            raise UserError("expected as many prompts as samples")
        return {"mean": samples["x"].mean(axis=(1, 2))}

    def training_batches(self, samples, rewards):
        batches = [{"x": samples["x"][..., k], "y": samples["y"] + rewards["mean"]} for k in range(self.updates)]
        dtype = dict.fromkeys(("x", "y"), np.float32)
        batches = [{name: one[name].astype(dtype[name]) for name in one} for one in batches]
        return JudgedRollout(batches, {"reward": (float(rewards["mean"].sum()), float(len(rewards["mean"])))})

    def training_spec(self, batch_size):
        return self.batch_spec(batch_size)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    with contextlib.redirect_stderr(io.StringIO()) as progress:
        return run(out, task=Sampling(), **STEPS), out, progress.getvalue()


def test_a_run_is_logged_with_the_rewards_of_its_rollouts_and_the_figures_of_its_start(whole):
    _, out, progress = whole
    assert isinstance(Sampling(), TrainsOnSamples) and not isinstance(Toy(), TrainsOnSamples)
    lines = list(read_lines(out / "metrics.jsonl"))
    assert [one["step"] for one in lines if "train/reward" in one] == [2, 4, 6]
    assert progress.count("  reward ") == 3
    assert [one["step"] for one in lines if "evaluation/error" in one] == [0, 6]
    assert all(one["speed/judging_seconds"] >= 0 for one in lines if one["step"] == 4)


def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(whole, tmp_path):
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "run", StopsAt(step=2), task=Sampling(), **STEPS)  # the third rollout
    assert whole_steps(tmp_path / "run" / "checkpoints")[-1] == 4
    resumed = run(tmp_path / "run", Lines(), task=Sampling(), **STEPS)
    assert leaves(resumed.state) == leaves(whole[0].state)


def test_a_run_is_not_saved_between_the_steps_of_a_rollout(tmp_path):
    with pytest.raises(UserError, match=r"trainer\.save_every: expected a multiple of task\.updates, 2, .* got 3"):
        run(tmp_path / "run", task=Sampling(), **STEPS | {"save_every": 3})


def test_groups_that_the_prompts_cannot_fill_are_refused_before_anything_is_compiled(tmp_path):
    class TooMany(Sampling):
        def training_spec(self, batch_size):
            raise UserError(f"task.trained_groups: expected at most data.batch_size {batch_size}, got 99")

        def rollout(self, module, frozen, batch, key):
            raise AssertionError("a rollout was traced")

    with pytest.raises(UserError, match=r"task\.trained_groups: expected at most data\.batch_size \d+, got 99"):
        run(tmp_path / "run", task=TooMany(), **STEPS)
    assert not (tmp_path / "run" / "config.gin").exists()


def test_an_error_of_the_judge_stops_the_run(tmp_path):
    class Refusing(Sampling):
        def judge(self, prompts, samples):
            raise UserError("reward own: expected finite values, got nan")

    with pytest.raises(UserError, match="reward own: expected finite values, got nan"):
        run(tmp_path / "run", task=Refusing(), **STEPS)


@pytest.mark.slow
def test_eight_devices_get_the_rollouts_of_one(whole, tmp_path):
    shared = run(tmp_path / "run", task=Sampling(), lay=layout(data=8), **STEPS)
    for name, value in whole[0].state.learned.params.items():
        np.testing.assert_allclose(shared.state.learned.params[name], value, rtol=1e-4, atol=1e-6)
