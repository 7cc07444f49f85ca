"""Codes made on a disk, uploaded to a store, and used for training from there."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from dalle_jax import storage
from dalle_jax.__main__ import main
from dalle_jax.data.sources.precomputed import Codes
from tests.train.stores import amazon, google


@pytest.fixture(scope="module", params=[amazon, google], ids=["s3", "gs"])
def bucket(request) -> Iterator[str]:
    with request.param() as url:
        yield url


def test_codes_are_uploaded_once_and_read_from_the_url(bucket, smoke_demo, tmp_path, capsys):
    url, work = f"{bucket}/codes", tmp_path / "work"
    encode = ["encode", "smoke/encode.gin", "--set", f"image_tokenizer='{smoke_demo / 'tokenizer'}'", "--out", url]
    assert main(encode) == 2
    assert f"--out {url}: expected --work FOLDER with a URL" in capsys.readouterr().err
    encode += ["--work", str(work)]

    def sent() -> str:
        assert main(encode) == 0
        return capsys.readouterr().out.splitlines()[-1]

    assert sent() == f"3 shards uploaded to {url}"
    there = storage.files(storage.place(url))
    names = {f"codes-0000{number}-of-00003.array_record" for number in range(3)}
    assert {name for name in there if "/" not in name} == {*names, "manifest.json", "encoding.json"}
    here, back = Codes(str(work)).open(), Codes(url, cache=str(tmp_path / "cache")).open()
    assert here.fingerprint() == back.fingerprint() and len(back) == 64
    np.testing.assert_array_equal(back[40]["codes"], here[40]["codes"])

    assert sent() == f"0 shards uploaded to {url}"
    storage.write(storage.place(f"{url}/codes-00001-of-00003.array_record"), b"cut off")
    assert sent() == f"1 shards uploaded to {url}"
    assert storage.files(storage.place(url)) == there


def test_a_url_with_codes_of_a_different_encoding_is_left_unchanged(bucket, smoke_demo, tmp_path, capsys):
    encode = ["encode", "smoke/encode.gin", "--set", f"image_tokenizer='{smoke_demo / 'tokenizer'}'"]
    encode += ["--work", str(tmp_path / "work")]
    for name, content, said in (
        ("encoding.json", json.dumps({"tokenizer": "another"}).encode(), "expected codes of the same encoding as"),
        ("mine.array_record", b"x", "expected an empty folder, or one of an earlier `encode` run; found other files"),
    ):
        url = f"{bucket}/{name.partition('.')[0]}"
        storage.write(storage.place(f"{url}/{name}"), content)
        assert main([*encode, "--out", url]) == 2
        assert said in capsys.readouterr().err
        assert list(storage.files(storage.place(url))) == [name]
