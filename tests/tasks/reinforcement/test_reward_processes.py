"""Two processes of one device each train by rewards as one process of two devices does."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from dalle_jax.train.checkpoints.checkpoints import load_params
from tests.command_processes import finish, start_processes
from tests.tasks.reinforcement.test_reinforce import dalle

PROCESS = Path(__file__).with_name("reward_process.py")
pytestmark = pytest.mark.slow


def trained(out: Path, processes: int, steps: int) -> Path:
    """Train up to step ``steps``, from the newest checkpoint if there is one."""
    ended = finish(start_processes([[str(PROCESS), str(out), str(steps)]] * processes, devices=2 // processes))
    assert [(code, text.strip().splitlines()[-1:]) for code, text, _ in ended] == [(0, [f"step={steps}"])] * processes
    return out


def figures(out: Path) -> dict[str, list[float]]:
    """Return each figure of the samples and of the loss, in the order of its steps."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = ("train/reward", "train/reward/bright", "train/loss", "train/kl", "train/code_spread")
    return {name: [line[name] for line in lines if name in line] for name in names}


def weights(out: Path) -> dict[str, np.ndarray]:
    """Return the parameters of the newest checkpoint."""
    module = dalle(0)
    load_params(out, module)
    return {name: np.asarray(value) for name, value in leaves_of(module).items()}


def leaves_of(module) -> dict:
    return {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def test_two_processes_train_as_one_and_resume_to_the_bit(tmp_path):
    alone, whole = trained(tmp_path / "alone", 1, 6), trained(tmp_path / "whole", 2, 6)
    resumed = trained(trained(tmp_path / "resumed", 2, 4), 2, 6)
    for name, values in figures(alone).items():
        assert len(values) == 3
        np.testing.assert_allclose(figures(whole)[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    one, two, again = (weights(out) for out in (alone, whole, resumed))
    assert any(not np.array_equal(value, np.asarray(leaves_of(dalle(0))[name])) for name, value in one.items())
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(again[name], two[name], err_msg=name)
