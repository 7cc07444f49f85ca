"""URLs of files: unguessable, signed, and gone after their time."""

import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from dalle_jax.serve.results.signed_files import SignedFiles


def read(files: SignedFiles, url: str, **changes: str):
    parts = urlsplit(url)
    given = (
        {name: value[0] for name, value in parse_qs(parts.query).items()} | {"name": Path(parts.path).name} | changes
    )
    return files.read(**given)


def test_a_url_gives_its_file_and_no_other_url_does():
    files = SignedFiles()
    url, other = files.add(b"one", "png", "image/png"), files.add(b"two", "gif", "image/gif")
    assert read(files, url) == (b"one", "image/png")
    assert read(files, other) == (b"two", "image/gif")
    names = [Path(urlsplit(one).path).name for one in (url, other)]
    assert read(files, url, name=names[1]) is None
    assert read(files, url, expires="99999999999") is None
    assert read(files, url, signature="") is None
    assert read(files, url, signature="é") is None
    assert read(files, url, name="../" + names[0]) is None
    assert read(SignedFiles(), url) is None
    files.close()


def test_an_expired_file_is_removed(monkeypatch):
    files = SignedFiles(seconds=10)
    url = files.add(b"one", "png", "image/png")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert read(files, url) is None
    assert list(Path(files._folder.name).iterdir()) == []


def test_the_oldest_files_make_room_for_new_ones():
    files = SignedFiles(most_bytes=10)
    urls = [files.add(b"12345", "png", "image/png") for _ in range(3)]
    assert [read(files, one) is not None for one in urls] == [False, True, True]
    files.close()
