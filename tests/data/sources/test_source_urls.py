"""Sources behind s3:// and gs://, against local servers with the APIs of both stores."""

import contextlib
from collections.abc import Iterator

import pytest

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.patterns import expand_paths
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.webdataset import WebDataset
from tests.data.tars import sample, write
from tests.train.stores import amazon, google


@pytest.fixture(scope="module", params=[amazon, google], ids=["s3", "gs"])
def bucket(request) -> Iterator[str]:
    with contextlib.contextmanager(request.param.__wrapped__)() as url:
        yield url


def put(url, content):
    storage.write(storage.place(url), content)


def test_patterns_match_objects(bucket):
    for name in ("a.tar", "b.tar", "a.json", "in/c.tar", ".hidden.tar", "part-1.tar"):
        put(f"{bucket}/named/{name}", b"x")

    def found(*patterns):
        names = expand_paths([f"{bucket}/named{one}" for one in patterns], (".tar",))
        return [name.removeprefix(f"{bucket}/named/") for name in names]

    assert found("/a.tar") == ["a.tar"]
    assert found("/a.tar", "/{b,a}.tar") == ["a.tar", "b.tar"]
    assert found("") == found("/") == ["a.tar", "b.tar", "in/c.tar", "part-1.tar"]
    assert found("/[ab].tar") == ["a.tar", "b.tar"]
    assert found("/**/c.tar") == ["in/c.tar"]
    with pytest.raises(UserError, match=r"part-2\.tar"):
        found("/part-{1..2}.tar")
    with pytest.raises(UserError, match="found nothing for"):
        found("/none")


def test_tars_are_read_and_their_indexes_stored_next_to_them(bucket, tmp_path):
    files = [one for number in range(5) for one in sample(f"{number}", image=bytes([number]) * 9000)]
    path = write(tmp_path / "x.tar", *files)
    here = WebDataset(files=(str(path),)).open()
    put(f"{bucket}/tars/x.tar", path.read_bytes())
    for _ in range(2):
        records = WebDataset(files=(f"{bucket}/tars",)).open()
        assert list(records) == list(here)
        assert records.fingerprint() == here.fingerprint()
        assert sorted(storage.files(storage.place(f"{bucket}/tars"))) == ["x.tar", "x.tar.index"]
    put(f"{bucket}/tars/x.tar", write(tmp_path / "x.tar", *sample("new")).read_bytes())
    assert [one.key for one in WebDataset(files=(f"{bucket}/tars",)).open()] == ["new"]
    with pytest.raises(UserError, match=r"tars/x\.tar"):
        records[4]


def test_a_folder_is_listed_and_read(bucket):
    for name, content in {"b/x.jpg": b"1", "b/x.txt": b"a dog", "y.png": b"2", ".c/z.jpg": b"3"}.items():
        put(f"{bucket}/folder/{name}", content)
    put(f"{bucket}/folder/metadata.jsonl", b'{"file_name": "y.png", "text": "a cat", "n": 1}')
    records = Folder(path=f"{bucket}/folder").open()
    assert [(one.key, one.image, one.captions, one.metadata) for one in records] == [
        ("b/x.jpg", b"1", ("a dog",), {}),
        ("y.png", b"2", ("a cat",), {"n": 1}),
    ]
