import collections
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.train.checkpoints import checkpoints
from dalle_jax.train.checkpoints.checkpoints import load_params, whole_steps
from dalle_jax.train.loop import train
from dalle_jax.train.optim.optimizers import Lion
from dalle_jax.train.optim.schedules import ConstantRate, PlateauRate
from tests.train.child import TASK, TRAINER
from tests.train.runs import CONFIG, LosesFolder, StopsAt, run
from tests.train.toy import Lines, Toy, layout, leaves


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "whole", evaluate_every=10, images_every=10)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Return a run folder whose newest checkpoint is of step 10, with metrics up to step 12."""
    out = tmp_path_factory.mktemp("runs") / "failed"
    with pytest.raises(OSError, match="the disk is gone"):
        run(out, StopsAt(step=13))
    assert whole_steps(out / "checkpoints")[-1] == 10
    return out


@pytest.fixture
def stopped(failed, tmp_path):
    """Return a copy of the run folder to resume from."""
    return Path(shutil.copytree(failed, tmp_path / "run"))


def start_child(out, pause, fails=""):
    command = [sys.executable, str(Path(__file__).with_name("child.py")), str(out), str(pause), fails]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "10").is_dir():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return child


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_run_bit_for_bit(stopped, never_stopped):
    (stopped / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir()
    resumed = run(stopped)
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)
    assert int(resumed.state.learned.non_params["count"]) == 160


def test_the_state_of_a_schedule_is_saved(tmp_path):
    plateau = PlateauRate(1e-5, window=3, patience=2, threshold=0.5)
    whole = run(tmp_path / "whole", schedule=plateau)
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "run", StopsAt(step=13), schedule=plateau)
    resumed = run(tmp_path / "run", schedule=plateau)
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(whole.state)
    assert float(whole.state.remembered.schedule.scale) < 1.0 and int(whole.state.remembered.schedule.steps) == 2
    with pytest.raises(UserError, match=r"schedule .* is not in this run"):
        run(tmp_path / "run")


def test_a_killed_and_resumed_run_equals_an_uninterrupted_run_bit_for_bit(tmp_path, never_stopped):
    child = start_child(tmp_path / "run", pause=1.0)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    resumed = run(tmp_path / "run")
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)


def test_ctrl_c_saves_and_prints_the_command_to_resume(tmp_path, never_stopped):
    child = start_child(tmp_path / "run", pause=1.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    step = whole_steps(tmp_path / "run" / "checkpoints")[-1]
    assert f"interrupted=True step={step}" in out
    assert (
        f"stopped at step {step} and saved a checkpoint; resume with" in err
        and "child.py" in err
        and "Traceback" not in err
    )
    assert leaves(run(tmp_path / "run").state) == leaves(never_stopped.state)


def test_a_terminal_that_is_gone_saves_the_run(tmp_path):
    child = start_child(tmp_path / "run", pause=1.5)
    child.stderr.close()  # what is written to it fails from now on
    child.send_signal(signal.SIGHUP)
    out = child.stdout.read()
    assert child.wait(timeout=60) == 0
    step = whole_steps(tmp_path / "run" / "checkpoints")[-1]
    assert f"interrupted=True step={step}" in out and step > 10


def test_the_run_folder_has_configs_metrics_images_and_checkpoints(never_stopped):
    out = never_stopped.out
    assert (out / "config.gin").read_text() == CONFIG
    assert (out / "model.gin").read_bytes() == TASK.model_files()["model.gin"]
    assert (out / "text.model").read_bytes() == bytes(range(256))
    assert sorted(path.name for path in (out / "images").iterdir()) == ["step_00000010.png", "step_00000020.png"]
    assert list(out.glob("events.out.tfevents*"))
    assert whole_steps(out / "checkpoints") == [15, 20]
    assert not (out / "profile").exists() and not (out / "stalls").exists()
    assert [line["step"] for line in lines(out)] == [4, 8, 10, 10, 12, 16, 20, 20, 20]


def test_each_function_is_compiled_once(never_stopped):
    assert never_stopped.compiled.compiles() == {"step": 1, "evaluate": 1, "images": 1}


def test_the_result_has_the_newest_metrics_even_if_no_step_is_left(never_stopped):
    result = never_stopped.result
    assert result.step == 20 and not result.interrupted and result.skipped == 0
    assert result.metrics["train/learning_rate"] > 0 and result.metrics["evaluation/error"] > 0
    again = train(TASK, Lines(), TRAINER, layout(), never_stopped.out, CONFIG)
    assert again.step == 20 and again.metrics == result.metrics


def test_fewer_steps_than_the_checkpoint_has_are_refused(never_stopped):
    with pytest.raises(UserError, match=r"trainer.steps: expected at least 20, the step of the newest checkpoint in"):
        run(never_stopped.out, steps=15)


def test_a_warm_up_longer_than_the_run_is_warned_of(tmp_path, capfd):
    run(tmp_path / "run", steps=2, schedule=ConstantRate(1e-3, warmup=5))
    assert "trainer.schedule.warmup: the warm-up has 5 steps and the run 2" in capfd.readouterr().err


def test_metrics_are_means_over_all_rows_since_the_last_line(never_stopped):
    assert lines(never_stopped.out)[0]["train/steps_seen"] == np.mean([0, 1, 2, 3])


def test_metrics_beyond_the_restored_step_are_dropped(stopped):
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "train/loss": 1.0}\n{"step": 15, "tra')
    run(stopped)
    assert [line["step"] for line in lines(stopped)] == [4, 8, 12, 16, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": Lines(seed=4)}, "data: .* lines 8 3, .* lines 8 4"),
        ({"seed": 1}, "trainer.seed: 0 in its checkpoints, 1 now"),
        ({"task": Toy(width=16)}, "model.gin: had 'width = 8', now has 'width = 16'"),
        ({"optimizer": Lion()}, r"different model or optimizer: optimizers .* is not in"),
        ({"ema": None}, "ema_params bias is not in this run"),
    ],
)
def test_resuming_with_different_data_seed_or_model_is_refused(never_stopped, changes, message):
    with pytest.raises(UserError, match=message):
        run(never_stopped.out, **changes)
    assert whole_steps(never_stopped.out / "checkpoints") == [15, 20]


def test_a_changed_shape_or_dtype_is_named():
    struct = jax.ShapeDtypeStruct
    old, new = {"params": {"w": struct((2,), "float32")}}, {"params": {"w": struct((3,), "bfloat16")}}
    with pytest.raises(UserError, match=r"params w is float32\[2\] in the checkpoint and bfloat16\[3\] in this run"):
        checkpoints.compare("here", old, new)


def test_a_checkpoint_with_old_part_names_is_refused_with_the_present_names():
    old = {"params": {}, "average": {"w": jax.ShapeDtypeStruct((2,), "float32")}}
    with pytest.raises(UserError, match=r"part 'ema_params', got one of an earlier version, which calls it 'average'"):
        checkpoints.compare("here", old, {"params": {}})


def test_a_checkpoint_is_restored_on_a_different_mesh(stopped, never_stopped):
    resumed = run(stopped, lay=layout(2, 2, 2))
    assert resumed.start == 10 and resumed.state.learned.params["up"].sharding.mesh.size == 8
    for one, many in zip(jax.tree.leaves(never_stopped.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)


def test_load_params_loads_ema_weights_or_parameters_and_the_other_variables(never_stopped):
    module = nnx.eval_shape(lambda: TASK.init(nnx.Rngs(0)))
    assert load_params(never_stopped.out, module) == 20
    np.testing.assert_array_equal(module.up[...], never_stopped.state.learned.ema_params["up"])
    assert int(module.count[...]) == 160
    assert load_params(never_stopped.out, module, weights="params") == 20
    np.testing.assert_array_equal(module.up[...], never_stopped.state.learned.params["up"])
    with pytest.raises(UserError, match=r"a checkpoint of step 3, got \[15, 20\]"):
        load_params(never_stopped.out, module, step=3)
    with pytest.raises(UserError, match=r"(ema_)?params up is float32\[4, 8\]"):
        load_params(never_stopped.out, nnx.eval_shape(lambda: Toy(width=16).init(nnx.Rngs(0))))


def test_a_folder_without_checkpoints_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match="expected a checkpoint, got none"):
        load_params(tmp_path, TASK.init(nnx.Rngs(0)))


def test_a_folder_that_cannot_be_created_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/run: Not a directory"):
        run(tmp_path / "file" / "run")


def test_a_full_disk_ends_the_run_and_leaves_old_checkpoints_intact(tmp_path, never_stopped):
    child = start_child(tmp_path / "run", pause=0.1, fails="full")
    _, err = child.communicate(timeout=60)
    assert child.returncode == 2
    which = r"could not save .* complete checkpoints there: 5, 10$|cannot write .*goodput\.jsonl: "
    assert re.search(which, err.splitlines()[-1])  # what meets the full disk first
    resumed = run(tmp_path / "run")
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)


def test_a_save_that_cannot_start_ends_the_process(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("child.py")), str(tmp_path / "run"), "0", "blocked"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)  # threads of Orbax waited for 1,200 s
    assert done.returncode == 2
    assert re.search(r"could not save .*checkpoint.*Not a directory.* there: none$", done.stderr.splitlines()[-1])


def test_a_moved_run_folder_ends_the_run_and_resumes_at_its_new_place(tmp_path, never_stopped):
    with pytest.raises(UserError, match=r"cannot write .*run: config\.gin is gone; its folder was moved or deleted"):
        run(tmp_path / "run", LosesFolder(out=tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()  # nothing that looks like a run
    resumed = run(tmp_path / "moved")
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)


def test_a_run_folder_that_becomes_read_only_ends_the_run_with_one_line(tmp_path, monkeypatch):
    def read_only(file, mode="r", *rest, **options):
        if str(file).startswith(str(tmp_path)) and set("wax+") & set(mode) and whole_steps(tmp_path / "checkpoints"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return before(file, mode, *rest, **options)

    before = io.open
    monkeypatch.setattr("io.open", read_only)
    with pytest.raises(UserError, match=r"cannot write .*: Read-only file system; make it writable or choose a differ"):
        run(tmp_path)
    assert whole_steps(tmp_path / "checkpoints")[0] == 5


def test_a_disk_too_small_for_a_checkpoint_is_reported_before_writing(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(1_000_000))
    with pytest.raises(
        UserError, match=r"could not save the checkpoint of step 5 .*it needs 2 MB, and the disk has 1 MB free"
    ):
        run(tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_too_many_bad_batches_in_a_row_end_the_run(tmp_path):
    with pytest.raises(UserError, match="stopped at step 16: the last 3 updates in a row were not finite"):
        run(tmp_path / "run", Lines(bad=(13, 14, 15)))
    assert run(tmp_path / "other", Lines(bad=(3, 13, 14)), log_every=1).result.skipped == 3
