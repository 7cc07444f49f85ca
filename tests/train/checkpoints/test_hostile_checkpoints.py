"""Checkpoints that someone changed and gave new checksums: refused by one line, before tensorstore allocates."""

import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.train.checkpoints import checksums
from dalle_jax.train.checkpoints.checkpoints import Meta, load_params
from dalle_jax.train.checkpoints.save_weights import save_weights

KEY = "kernel/zarr.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "model"
    save_weights(folder, nnx.Linear(4, 8, rngs=nnx.Rngs(0)), "config", {})
    return folder


def resealed(written: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(written, folder)
    checkpoint = folder / "checkpoints" / "0"
    change(checkpoint)
    checksums.seal(checkpoint, 0)
    return folder


def refusal(folder: Path) -> str:
    module = nnx.eval_shape(lambda: nnx.Linear(4, 8, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError) as caught:
        load_params(folder, module)
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message and len(message) < 600
    return message


def described(**changes: object) -> Callable[[Path], None]:
    """Return a change of the array's description: values by their paths, joined with "__"."""

    def change(checkpoint: Path) -> None:
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{checkpoint}/params/"}).result()
        whole = json.loads(store.read(KEY).result().value)
        for name, value in changes.items():
            *above, last = name.split("__")
            found = whole
            for one in above:
                found = found[int(one) if one.isdigit() else one]
            found[last] = value
        store.write(KEY, json.dumps(whole).encode()).result()

    return change


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        content = (checkpoint / name).read_bytes()
        assert old in content
        (checkpoint / name).write_bytes(content.replace(old, new))

    return change


CHUNK = "chunk_grid__configuration__chunk_shape"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (described(**{CHUNK: [2**40, 2**20]}), "more than fits in any memory"),
        (described(**{CHUNK: [2**14, 2**14]}), r"chunks of \[16384, 16384\] for kernel of \[4, 8\]"),
        (described(**{CHUNK: [4]}), r"chunks of \[4\]"),
        (described(**{CHUNK: "4"}), "not whole numbers"),
        (described(codecs__0__configuration__chunk_shape=[1, 3]), r"pieces of \[1, 3\] in chunks of \[4, 8\]"),
        (described(codecs=[{"name": "gzip"}]), "the codec 'gzip'"),
        (described(shape=[2**40, 2**40]), "more than fits in any memory"),
        (described(shape=[8, 8]), r"kernel is float32\[8, 8\] in the checkpoint"),
        (replaced("params/manifest.ocdbt", b"\x0c", b"\xff"), "that Orbax wrote, got others"),
        (replaced("params/_METADATA", b"use_ocdbt", b"use_other"), "does not say use_ocdbt"),
        (replaced("params/_METADATA", b'"key_type": 2', b'"key_type": 99'), "no metadata of the arrays in params"),
        (replaced("params/_sharding", b"{", b"["), "no metadata of the arrays in params"),
        (replaced("_CHECKPOINT_METADATA", b'"custom_metadata": {', b'"custom_metadata": 5, "x": {'), "can read"),
    ],
    ids=range(13),
)
def test_changed_checkpoints_with_new_checksums_are_refused(written, tmp_path, change, says):
    assert re.search(says, refusal(resealed(written, tmp_path, change)))


def test_the_same_checkpoint_is_read_when_nothing_was_changed(written, tmp_path):
    folder = resealed(written, tmp_path, lambda checkpoint: None)
    module = nnx.eval_shape(lambda: nnx.Linear(4, 8, rngs=nnx.Rngs(0)))
    assert load_params(folder, module) == 0
    np.testing.assert_array_equal(module.kernel[...], nnx.Linear(4, 8, rngs=nnx.Rngs(0)).kernel[...])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[]", "checksums of files"),
        (b'{"_CHECKPOINT_METADATA": "x", "files": {"../../x": [1, "0"]}}', "files in its folder"),
        (b'{"_CHECKPOINT_METADATA": "x", "files": {"/dev/zero": [1, "0"]}}', "files in its folder"),
        (b'{"_CHECKPOINT_METADATA": "x", "files": {"x": ["1", 0]}}', "a size and a checksum of 'x'"),
        (b'{"_CHECKPOINT_METADATA": 5, "files": {}}', "checksums of files"),
        (b"[" * 9999, "nested too deeply"),
    ],
    ids=range(6),
)
def test_checksums_that_are_no_list_of_files_are_damage(written, tmp_path, body, says):
    folder = tmp_path / "model"
    shutil.copytree(written, folder)
    (folder / "checkpoints/0" / checksums.FILE).write_bytes(f"{zlib.crc32(body):08x}\n".encode() + body)
    assert says in refusal(folder)


@pytest.mark.parametrize("value", [{}, {"config": 1, "fingerprint": "", "seed": 0, "files": {}}, {"files": []}])
def test_metadata_of_a_step_that_is_not_ours_is_a_value_error(value):
    with pytest.raises(ValueError, match="config, fingerprint, seed and files"):
        Meta.from_json(value)
