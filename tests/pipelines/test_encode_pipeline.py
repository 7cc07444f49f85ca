"""Precomputed codes are the codes of the images, even if processes are killed, and for any number of processes."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.caption_blend import Blend
from dalle_jax.data.examples.images import Images
from dalle_jax.data.loader import Loader
from dalle_jax.data.precomputed.manifest import read_manifest
from dalle_jax.data.precomputed.writer import EncodedFolder
from dalle_jax.data.records import Record
from dalle_jax.data.sources import array_record
from dalle_jax.data.sources.array_record import ArrayRecord
from dalle_jax.data.sources.precomputed import Codes, shared_manifest
from dalle_jax.folder_lock import locked
from dalle_jax.images.pixels import to_float
from dalle_jax.images.png import encode_png
from dalle_jax.pipelines.compiled_network import local_layout
from dalle_jax.pipelines.encode import CodesPayload, Encoder, encode, encoding
from tests.command_processes import finish, start_processes, start_python
from tests.pipelines.encode_child import COUNT, SIDE, Noise, tokenizer

CHILD = Path(__file__).with_name("encode_child.py")
SHARDS = 14


def encoded(source, out, crops, process=0, processes=1):
    """Encode a source in this process, as the command does."""
    what = encoding(source, tokenizer(), SIDE, crops, 3)
    folder = EncodedFolder(out, what, process, processes)
    encoder = Encoder(CodesPayload(tokenizer()), source, what, 8, local_layout())
    with locked(out, "encode"):
        folder.begin()
        encode(encoder, folder, folder.missing(), print)
        folder.wait_for_shards()
        folder.finish("tokenizer", "")
    return encoder


def start(out, pause=0.0, processes=1):
    process = [str(CHILD), str(out), str(pause)]
    return start_processes([process] * processes) if processes > 1 else [start_python(process)]


def succeed(started):
    """Wait for processes, which must succeed; return standard output and standard error of each."""
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0] * len(started), ended
    return [(out, error) for _, out, error in ended]


def kill_in_the_middle(started, out, shards, wait):
    """Kill the processes ``wait`` seconds after there are ``shards`` shards."""
    while len(list(out.glob("*.array_record"))) < shards and all(one.poll() is None for one in started):
        time.sleep(0.005)
    time.sleep(wait)
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "codes"
    encoded(Noise(), out, crops=2)
    return out


def check_same(out, whole):
    """Assert that both folders have the same shards, byte for byte, and no other files."""
    assert read_manifest(out).shards == read_manifest(whole).shards
    assert len(read_manifest(out).shards) == SHARDS
    kept = {one.name for one in out.iterdir() if not one.name.startswith(".checked-")}
    names = {shard.file for shard in read_manifest(whole).shards}
    assert kept == {*names, "manifest.json", "encoding.json", "progress"}
    assert {one.name for one in (out / "progress").iterdir()} == {f"{name}.json" for name in names}
    source = Codes(folder=str(out)).open()
    assert [source[index]["key"] for index in range(COUNT)] == [str(index) for index in range(COUNT)]


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_encoding_that_is_killed_at_random_moments_resumes_without_losing_or_repeating_a_shard(whole, tmp_path, kills):
    rng = random.Random(kills)
    out = tmp_path / "codes"
    for kill in range(kills):
        started = start(out, pause=0.02)
        kill_in_the_middle(started, out, min(kill * SHARDS // kills + 1, SHARDS - 1), rng.uniform(0.0, 0.15))
    survived = {one.name: one.stat().st_mtime_ns for one in (out / "progress").glob("[!.]*")}
    assert 0 < len(survived) <= SHARDS
    succeed(start(out))
    check_same(out, whole)
    assert survived.items() <= {one.name: one.stat().st_mtime_ns for one in (out / "progress").iterdir()}.items()


def test_two_processes_share_the_shards(whole, tmp_path):
    out = tmp_path / "two"
    said = succeed(start(out, processes=2))
    check_same(out, whole)
    assert [f"[encode {process}] " in said[process][0] for process in (0, 1)] == [True, True]


@pytest.mark.slow
def test_one_process_resumes_the_encoding_of_two(whole, tmp_path):
    left = tmp_path / "left"
    kill_in_the_middle(start(left, pause=0.02, processes=2), left, 3, 0.0)
    assert not (left / "manifest.json").exists()
    succeed(start(left))
    check_same(left, whole)


def images(tmp_path, count=7):
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        small = rng.integers(0, 256, (4, 5, 3), np.uint8)
        image = np.asarray(Image.fromarray(small).resize((33 + number, 25), Image.Resampling.BICUBIC))
        content = encode_png(image) if number != 3 else b"<html>"
        records.append(Record(str(number), content, (f"own {number}",), {"synthetic": [f"a {number}", f"b {number}"]}))
    array_record.write(tmp_path / "images.array_record", records)
    config = Images(size=SIDE, blend=Blend(weights=(0.5, 0.5)), bad_share=0.5)
    return config.source_of(ArrayRecord(files=(str(tmp_path / "images.array_record"),)).open())


def test_precomputed_codes_equal_the_codes_of_each_crop_and_the_encoder_compiles_once(tmp_path):
    source = images(tmp_path)
    encoder = encoded(source, tmp_path / "codes", crops=3)
    assert encoder.compiles() == 1
    codes = Codes(folder=str(tmp_path / "codes")).open()
    ours, theirs = Loader(codes, codes, 7, seed=2), Loader(images(tmp_path), None, 7, seed=2)
    network, seen = tokenizer(), set()
    for step in range(3):
        batch, expected = ours.batch(step), theirs.batch(step)
        for name in ("key", "caption", "caption_group"):
            assert batch[name] == expected[name]
        wanted = np.asarray(network.encode(to_float(jnp.asarray(np.stack(expected["image"])))))
        np.testing.assert_array_equal(np.stack(batch["codes"]), wanted)
        seen |= {(key, codes.tobytes()) for key, codes in zip(batch["key"], batch["codes"], strict=True)}
    assert len(seen) > 7 + 3  # crops do differ
    again = ours.batch(3)  # epoch 3 shows the first crops again
    order = {key: row.tobytes() for key, row in zip(again["key"], again["codes"], strict=True)}
    assert set(order.items()) <= seen
    bad = source.report.content()["bad"].values()
    assert [record["key"] for kind in bad for record in kind["records"]] == ["images.array_record:3"]


def test_checksums_of_a_folder_are_computed_once_and_again_after_a_change(whole, tmp_path, monkeypatch):
    from dalle_jax.data.precomputed import manifest as module

    read = []
    whole_sha256 = module.sha256
    monkeypatch.setattr(module, "sha256", lambda file: read.append(file) or whole_sha256(file))
    for one in whole.glob(".checked-*"):
        one.unlink()
    assert Codes(folder=str(whole)).open().fingerprint() == Codes(folder=str(whole)).open().fingerprint()
    assert len(read) == SHARDS
    os.utime(next(whole.glob("*.array_record")))
    Codes(folder=str(whole)).open()
    assert len(read) == 2 * SHARDS


def copied(whole, out, name, **changes):
    """Copy a folder of codes, and change fields of the encoding in one of its files; None removes a field."""
    shutil.copytree(whole, out)
    content = json.loads((out / name).read_text())
    encoding = content.get("encoding", content)
    encoding |= changes
    for gone in [key for key, value in changes.items() if value is None]:
        del encoding[gone]
    (out / name).write_text(json.dumps(content))
    return out


def test_the_manifest_names_the_platform_and_the_dtypes_of_products(whole):
    found = read_manifest(whole).encoding
    assert (found.platform, found.precision) == ("cpu", "float32")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"platform": "tpu"}, "got codes of a cpu in float32 and codes of a tpu in float32"),
        ({"precision": "bfloat16"}, "got codes of a cpu in bfloat16 and codes of a cpu in float32"),
        ({"platform": None, "precision": None}, ""),
        ({}, ""),
    ],
)
def test_codes_that_were_computed_in_different_ways_are_announced(whole, tmp_path, changes, words, capsys):
    other = Codes(str(copied(whole, tmp_path / "other", "manifest.json", **changes))).open()
    first = Codes(str(whole)).open()
    capsys.readouterr()
    assert shared_manifest([first], other) == first.manifest
    said = capsys.readouterr().err
    assert (words in said) if words else said == ""
    assert first.fingerprint() == other.fingerprint()  # the codes are the same, so a run resumes with either


def test_codes_are_not_continued_on_a_different_platform(whole, tmp_path):
    here = read_manifest(whole).encoding
    other = copied(whole, tmp_path / "tpu", "encoding.json", platform="tpu")
    with pytest.raises(UserError, match="platform was tpu and is cpu"):
        EncodedFolder(other, here, 0, 1).begin()
    unknown = copied(whole, tmp_path / "unknown", "encoding.json", platform=None, precision=None)
    EncodedFolder(unknown, here, 0, 1).begin()
