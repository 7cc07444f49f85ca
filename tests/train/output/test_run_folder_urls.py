"""A run behind a URL: its files, how it resumes, and the errors."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.train.checkpoints.checkpoints import load_params, whole_steps
from tests.train.child import TASK
from tests.train.runs import StopsAt, run
from tests.train.stores import amazon, google
from tests.train.toy import leaves


@pytest.fixture(scope="module", params=[amazon, google], ids=["s3", "gs"])
def bucket(request):
    with request.param() as url:
        yield url


# gcp-storage-emulator takes about four CPU seconds for each checkpoint, so the fast suite tests gs:// in one run only.
google_if_slow = pytest.mark.parametrize(
    "bucket", [amazon, pytest.param(google, marks=pytest.mark.slow)], ids=["s3", "gs"], indirect=True
)


@pytest.fixture(autouse=True)
def spools(tmp_path, monkeypatch):
    """Collect temporary folders in one place, and check that none is left after the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not list(tmp_path.glob("dalle_jax-*"))


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def stopped(bucket, request):
    """Return the URL of a run with checkpoints of steps 5 and 10, which ended at step 13."""
    out = storage.place(f"{bucket}/{request.node.name.partition('[')[0]}/run")
    with pytest.raises(OSError, match="the disk is gone"):
        run(out, StopsAt(step=13), images_every=10)
    assert whole_steps(out / "checkpoints") == [5, 10]
    return out


def lines(out) -> list[int]:
    """Return the steps whose losses were written."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in found if any(name.startswith("train/") for name in line)]


def flip_a_bit(out, step: int, part: str) -> None:
    folder = out / "checkpoints" / str(step) / part
    name = max((size, name) for name, size in storage.files(folder).items() if name.startswith("d/"))[1]
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    storage.write(folder / name, bytes(content))


def test_a_run_at_a_url_resumes_bit_for_bit_and_has_the_files_of_a_local_run(stopped, never_stopped):
    assert lines(stopped) == [4, 8, 12]
    resumed = run(stopped, images_every=10)
    assert resumed.start == 10
    assert leaves(resumed.state) == leaves(never_stopped.state)
    assert lines(stopped) == [4, 8, 12, 16, 20]
    assert whole_steps(stopped / "checkpoints") == [15, 20]
    assert {name.split("/")[0] for name in storage.files(stopped / "checkpoints")} == {"15", "20"}
    names = storage.files(stopped)
    assert {"config.gin", "model.gin", "text.model", "images/step_00000010.png"} <= names.keys()
    assert sum("tfevents" in name for name in names) == 2


@google_if_slow
def test_a_damaged_newest_checkpoint_at_a_url_is_renamed_and_the_run_resumes_from_the_previous_one(
    stopped, never_stopped, capfd
):
    flip_a_bit(stopped, 10, "params")
    resumed = run(stopped)
    assert resumed.start == 5
    assert leaves(resumed.state) == leaves(never_stopped.state)
    assert "the checkpoint of step 10" in capfd.readouterr().err
    found = {name.split("/")[0] for name in storage.files(stopped / "checkpoints")}
    assert found == {"10.damaged", "15", "20"}


@google_if_slow
def test_a_checkpoint_whose_upload_was_killed_does_not_count(stopped, never_stopped, capfd):
    (stopped / "checkpoints" / "10" / "commit_success.txt").unlink()
    resumed = run(stopped)
    assert resumed.start == 5
    assert leaves(resumed.state) == leaves(never_stopped.state)
    assert "the checkpoint of step" not in capfd.readouterr().err


@google_if_slow
def test_checkpoints_of_keep_every_stay(bucket):
    out = storage.place(f"{bucket}/kept")
    run(out, save_every=4, keep=1, keep_every=8)
    assert whole_steps(out / "checkpoints") == [8, 16, 20]


@google_if_slow
def test_weights_are_read_from_the_newest_intact_checkpoint(stopped, capfd):
    module = nnx.eval_shape(lambda: TASK.init(nnx.Rngs(0)))
    assert load_params(str(stopped), module) == 10
    flip_a_bit(stopped, 10, "ema_params")
    assert load_params(stopped, module) == 5
    assert "using step 5" in capfd.readouterr().err
    assert whole_steps(stopped / "checkpoints") == [5, 10]
    assert np.isfinite(np.asarray(module.up[...])).all()


def test_a_missing_bucket_is_a_one_line_error(bucket):
    url = bucket.replace("images", "nothing-here")
    with pytest.raises(UserError, match=rf"cannot use {url}/run \(.*\); check the bucket's name"):
        storage.reachable(f"{url}/run")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    for url, package, extra in (("gs://a/b", "gcsfs", "gcs"), ("s3://a/b", "s3fs", "s3")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"the package {package} is not installed; .* -e '\.\[{extra}\]'"):
            storage.place(url)


def test_a_url_of_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="az://box/run: expected a path, or a URL that begins with gs:// or s3://"):
        storage.place("az://box/run")
    assert storage.place("runs/a:b") == Path("runs/a:b")
