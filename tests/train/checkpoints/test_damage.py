"""Damaged checkpoints are found, reported and skipped, whichever of their files has changed."""

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.train.checkpoints import checksums
from dalle_jax.train.checkpoints.checkpoints import load_params, whole_steps
from tests.train.child import TASK
from tests.train.runs import StopsAt, run
from tests.train.toy import leaves


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Return a run folder with checkpoints of steps 5 and 10."""
    out = tmp_path_factory.mktemp("runs") / "failed"
    with pytest.raises(OSError, match="the disk is gone"):
        run(out, StopsAt(step=13))
    assert whole_steps(out / "checkpoints") == [5, 10]
    return out


@pytest.fixture
def stopped(failed, tmp_path):
    """Return a copy of the run folder to damage."""
    return Path(shutil.copytree(failed, tmp_path / "run"))


def arrays(out: Path, step: int, part: str) -> Path:
    """Return the largest file of arrays in a part of a checkpoint."""
    folder = out / "checkpoints" / str(step) / part
    return folder / max((size, name) for name, size in storage.files(folder).items() if name.startswith("d/"))[1]


@pytest.mark.parametrize("damage", [delete, cut, flip_a_bit, fill_with_garbage])
def test_damage_to_any_file_of_a_checkpoint_is_found(stopped, damage):
    checkpoint = stopped / "checkpoints" / "10"
    names = storage.files(checkpoint).keys() - {"commit_success.txt"}
    assert {"checksums.json", "_CHECKPOINT_METADATA", "params/manifest.ocdbt", "optimizers/_METADATA"} <= names
    assert checksums.damage(checkpoint) is None
    for name in names:
        before = (checkpoint / name).read_bytes()
        damage(checkpoint / name)
        if damage is delete or (checkpoint / name).read_bytes() != before:
            reason = checksums.damage(checkpoint)
            assert reason is not None
            assert name in reason
        (checkpoint / name).write_bytes(before)
    assert checksums.damage(checkpoint) is None


def test_shares_of_the_files_cover_all_of_them(stopped):
    checkpoint = stopped / "checkpoints" / "10"
    flip_a_bit(arrays(stopped, 10, "params"))
    found = [checksums.damage(checkpoint, share=(part, 3)) for part in range(3)]
    assert sum(reason is not None for reason in found) == 1


@pytest.mark.parametrize("damage", [delete, cut, flip_a_bit])
@pytest.mark.parametrize("name", ["params", "_CHECKPOINT_METADATA"])
def test_a_damaged_newest_checkpoint_is_renamed_and_the_run_resumes_from_the_previous_one(
    stopped, never_stopped, capfd, name, damage
):
    damage(arrays(stopped, 10, name) if name == "params" else stopped / "checkpoints" / "10" / name)
    resumed = run(stopped, keep=4)
    assert resumed.start == 5
    assert leaves(resumed.state) == leaves(never_stopped.state)
    said = [line for line in capfd.readouterr().err.splitlines() if "WARNING" in line and "checkpoint" in line]
    assert len(said) == 1
    assert "the checkpoint of step 10" in said[0]
    assert "damaged" in said[0]
    assert "it was renamed to 10.damaged" in said[0]
    checkpoints = stopped / "checkpoints"
    assert whole_steps(checkpoints) == [5, 10, 15, 20]
    assert checksums.damage(checkpoints / "10") is None
    assert (checkpoints / "10.damaged").is_dir()


def test_a_checkpoint_copied_to_the_name_of_another_step_is_not_taken_as_that_step(stopped, never_stopped, capfd):
    checkpoints = stopped / "checkpoints"
    shutil.copytree(checkpoints / "10", checkpoints / "12")
    assert checksums.damage(checkpoints / "12") == "it is a copy of the checkpoint of step 10"
    resumed = run(stopped, keep=4)
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)
    said = capfd.readouterr().err
    assert "is damaged (it is a copy of the checkpoint of step 10): it was renamed to 12.damaged" in said


@pytest.mark.parametrize("name", ["²", "٣", "007", "-1", "1e3", "5.damaged"])
def test_only_plain_numbers_are_names_of_checkpoints(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "5").mkdir()
    assert whole_steps(tmp_path) == [5]


def test_a_step_that_is_damaged_twice_is_renamed_twice(stopped):
    flip_a_bit(arrays(stopped, 10, "params"))
    with pytest.raises(OSError, match="the disk is gone"):
        run(stopped, StopsAt(step=12))
    flip_a_bit(arrays(stopped, 10, "params"))
    assert run(stopped).start == 5
    names = {path.name for path in (stopped / "checkpoints").iterdir()}
    assert {"10.damaged", "10.damaged-1"} <= names


def test_damage_to_an_older_checkpoint_is_ignored_if_the_newest_is_intact(stopped, never_stopped):
    for name in ("_CHECKPOINT_METADATA", "checksums.json"):
        fill_with_garbage(stopped / "checkpoints" / "5" / name)
    shutil.rmtree(stopped / "checkpoints" / "5" / "params")
    resumed = run(stopped)
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)


def test_a_run_without_an_intact_checkpoint_is_one_error_and_nothing_is_renamed(stopped):
    for step in (5, 10):
        flip_a_bit(arrays(stopped, step, "optimizers"))
    for _ in range(2):  # a second start must not find an empty folder and begin anew
        with pytest.raises(
            UserError, match=r"expected an intact checkpoint, got only damaged ones \(10: optimizers/.*; 5: opt"
        ):
            run(stopped)
    assert whole_steps(stopped / "checkpoints") == [5, 10]


def test_weights_are_read_from_the_newest_intact_checkpoint_and_nothing_is_renamed(stopped, capfd):
    module = nnx.eval_shape(lambda: TASK.init(nnx.Rngs(0)))
    flip_a_bit(arrays(stopped, 10, "optimizers"))
    assert load_params(stopped, module) == 10  # nothing of it is used
    assert capfd.readouterr().err == ""
    flip_a_bit(arrays(stopped, 10, "ema_params"))
    assert load_params(stopped, module, weights="params") == 10
    assert load_params(stopped, module) == 5
    said = capfd.readouterr().err
    assert "the checkpoint of step 10" in said
    assert "using step 5" in said
    with pytest.raises(UserError, match=r"the checkpoint of step 10 in .* is damaged \(ema_params/"):
        load_params(stopped, module, step=10)
    assert whole_steps(stopped / "checkpoints") == [5, 10]


def test_the_metadata_that_orbax_writes_in_its_thread_is_awaited(tmp_path):
    """The file of the step is written late, and first by half: both are waited for."""
    custom = {"config": "x"}
    content = json.dumps({"custom_metadata": custom, "item_handlers": {}})

    def write_late() -> None:
        for part in ("{}", content[:9], content):
            time.sleep(0.05)
            (tmp_path / checksums.STEP_FILE).write_text(part)

    writer = threading.Thread(target=write_late)
    writer.start()
    checksums.await_step(tmp_path, custom)
    assert (tmp_path / checksums.STEP_FILE).read_text() == content
    writer.join()
