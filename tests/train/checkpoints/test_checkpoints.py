"""The checkpoints of a run: which ones are kept, their contents, and the layouts on which a run resumes."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.data.loader import Loader
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.train.checkpoints.checkpoints import Checkpoints, Meta, whole_steps
from dalle_jax.train.optim.gradient_spikes import RunningNorms
from dalle_jax.train.state import Counted, Learned, Remembered, State
from tests.train.child import TRAINER
from tests.train.runs import StopsAt, run
from tests.train.toy import Model, Toy, layout, leaves


def save(out: Path, steps: range, keep: int, keep_every: int | None) -> list[int]:
    """Save a small state at every step; return the steps that are kept."""
    learned = Learned({"w": jnp.arange(3.0)}, {}, {}, {})
    state = State(learned, Counted.zero(), Remembered(RunningNorms.none(()), ()))
    checkpoints = Checkpoints(out, keep, keep_every)
    for step in steps:
        checkpoints.save(step, state, Meta(config="", fingerprint="", seed=0, files={}))
    checkpoints.close()
    return whole_steps(out / "checkpoints")


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(1, None, [20]), (2, None, [18, 20]), (2, 8, [8, 16, 18, 20]), (1, 2, list(range(2, 21, 2)))],
)
def test_the_newest_checkpoints_stay_and_those_of_keep_every_stay_for_good(tmp_path, keep, keep_every, left):
    assert save(tmp_path, range(2, 21, 2), keep, keep_every) == left


def test_only_orbaxs_log_is_muted_and_only_while_checkpoints_are_open(tmp_path, caplog):
    absl = logging.getLogger("absl")
    before, level = list(absl.filters), absl.level
    checkpoints = Checkpoints(tmp_path, keep=1)
    absl.error("ours")
    record = absl.makeRecord("absl", logging.ERROR, "/site-packages/orbax/checkpoint/save.py", 1, "theirs", (), None)
    absl.handle(record)
    checkpoints.close()
    assert caplog.messages == ["ours"]
    assert (absl.filters, absl.level) == (before, level)


def test_checkpoints_kept_for_good_stay_in_a_resumed_run(tmp_path):
    assert save(tmp_path, range(2, 11, 2), keep=1, keep_every=4) == [4, 8, 10]
    assert save(tmp_path, range(12, 19, 2), keep=1, keep_every=4) == [4, 8, 12, 16, 18]


@pytest.mark.parametrize(("save_every", "keep_every"), [(5, 7), (None, 10), (5, 0), (5, -5)])
def test_keeping_steps_that_are_never_saved_is_refused(save_every, keep_every):
    with pytest.raises(ValueError, match="keep_every: expected a multiple of save_every"):
        dataclasses.replace(TRAINER, save_every=save_every, keep_every=keep_every)


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines}


@pytest.fixture(scope="module")
def on_4_2_1(tmp_path_factory):
    """Return the folder of an uninterrupted run over 4 x 2 devices, and of a run that failed before step 13."""
    folder = tmp_path_factory.mktemp("meshes")
    run(folder / "whole", lay=layout(4, 2, 1), log_every=1)
    with pytest.raises(OSError, match="the disk is gone"):
        run(folder / "stopped", StopsAt(step=13), lay=layout(4, 2, 1), log_every=1)
    return folder


@pytest.mark.parametrize("mesh", [(4, 2, 1), (2, 4, 1), (2, 2, 2), (1, 1, 1)], ids=str)
def test_a_run_resumed_on_a_different_mesh_has_the_same_losses(on_4_2_1, tmp_path, mesh):
    out = Path(shutil.copytree(on_4_2_1 / "stopped", tmp_path / "run"))
    resumed = run(out, lay=layout(*mesh), log_every=1)
    assert resumed.start == 10
    assert resumed.state.learned.params["up"].sharding.mesh.devices.shape[-3:] == mesh
    expected = losses(on_4_2_1 / "whole")
    np.testing.assert_allclose(list(losses(out).values()), list(expected.values()), rtol=1e-5)
    assert losses(out).keys() == expected.keys()


class Dropping(Model):
    """A module that drops activations with a random key of its own and counts it up."""

    def predict(self, x: Any) -> Any:
        return super().predict(self.dropout(x))


class DroppingToy(Toy):
    def init(self, rngs: nnx.Rngs) -> Dropping:
        return Dropping(self.width, rngs)


def test_random_keys_of_a_module_continue_after_a_resume(tmp_path):
    whole = run(tmp_path / "whole", task=DroppingToy())
    keys = {name: np.asarray(value) for name, value in whole.state.learned.non_params.items() if "rngs" in name}
    assert any(value.dtype == np.uint32 and value.ndim == 1 for value in keys.values())  # the words of a key
    assert 20 in [int(value) for value in keys.values() if value.ndim == 0]  # and how often it was used
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "run", StopsAt(step=13), task=DroppingToy())
    resumed = run(tmp_path / "run", task=DroppingToy())
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(whole.state)


@dataclasses.dataclass(frozen=True)
class Grey(Toy):
    """The toy task on images, of which each gives four mean values."""

    def prepare(self, examples: dict[str, list[Any]], seeds: Any) -> dict[str, np.ndarray]:
        x = np.stack([image.reshape(4, -1).mean(1) / 255 for image in examples["image"]]).astype(np.float32)
        return {"x": x, "y": x.sum(1)}


def scenes(**changes: Any) -> Loader:
    source = Scenes(size=32, levels=(1,), count=64, seed=0, split="train")
    return Loader(dataclasses.replace(source, **changes).open(), source.open(), batch_size=8, seed=0)


def test_a_different_data_set_is_refused_with_the_config_line_that_differs(tmp_path):
    out = tmp_path / "run"
    config = "run = @TrainRun\n\ndata.batch_size = 8\n\ndata.source.seed = 0\n"
    run(out, scenes(), Grey(), config=config, steps=2)
    again = run(out, scenes(), Grey(), config=config, steps=3, schedule=TRAINER.schedule)
    assert again.start == 2
    changed = config.replace("seed = 0", "seed = 1")
    with pytest.raises(
        UserError, match=r"data: its .* loader-\w+, now .* \(had 'data.source.seed = 0', now has '.* 1'\)"
    ):
        run(out, scenes(seed=1), Grey(), config=changed, steps=4)
    with pytest.raises(UserError, match=r"the config is the same, so the content of its files has changed"):
        run(out, scenes(levels=(2,)), Grey(), config=config, steps=4)
