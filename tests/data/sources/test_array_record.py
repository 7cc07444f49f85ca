import contextlib
import http.server
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgpack
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.array_record_layout import encode_record
from dalle_jax.data.formats.row_files import Rows, short_names
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.sources import array_record
from dalle_jax.data.sources.array_record import ArrayRecord
from tests.data.damaged import fault


def records(*numbers):
    return [Record(f"k{n}", f"image {n}".encode() * 9, (f"a {n}", f"one {n}"), {"width": n}) for n in numbers]


def opened(*files, **fields):
    return ArrayRecord(files=tuple(map(str, files)), **fields).open()


def test_written_records_are_read_in_order_across_files(tmp_path):
    assert array_record.write(tmp_path / "in" / "b.array_record", records(3, 4)) == 2
    assert array_record.write(tmp_path / "a.array_record", records(0, 1, 2)) == 3
    found = opened(tmp_path)
    assert isinstance(found, Records)
    assert len(found) == 5
    for n, one in enumerate(found[i] for i in range(5)):
        assert (one.image, one.captions) == (records(n)[0].image, records(n)[0].captions)
        assert one.metadata == {"key": f"k{n}", "width": n}
    assert [found[i].key for i in (0, 4)] == ["a.array_record:0", "in/b.array_record:1"]
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.array_record", "b.array_record", "in"]
    for index in (-1, 5):
        with pytest.raises(IndexError):
            found[index]


def test_each_bad_row_has_its_kind_and_the_good_rows_are_read(tmp_path):
    good = encode_record(b"p", ["a dog"])
    parts = {"v": 2, "image": b"p", "captions": ["x"], "metadata": {}}
    rows = {
        "broken record": b"\xc1nonsense",
        "other layout": msgpack.packb(parts | {"v": 3}),
        "no image": msgpack.packb(parts | {"image": b""}),
        "no caption": msgpack.packb(parts | {"captions": [" "]}),
        "image too large": msgpack.packb(parts | {"image": b"p" * 101}),
    }
    array_files.write(tmp_path / "a.array_record", [good, *rows.values(), good])
    found = opened(tmp_path, max_bytes=100)
    assert found[0].captions == found[6].captions == ("a dog",)
    for number, kind in enumerate(rows, start=1):
        assert fault(found, number) == (f"a.array_record:{number}", kind)
    for odd in (msgpack.packb(parts | {"metadata": 3}), msgpack.packb([1]), msgpack.packb(parts | {"more": 1})):
        array_files.write(tmp_path / "b.array_record", [odd])
        assert fault(opened(tmp_path / "b.array_record"), 0)[1] == "other layout"
    array_files.write(tmp_path / "b.array_record", [msgpack.packb(parts | {"metadata": msgpack.ExtType(5, b"x")})])
    assert fault(opened(tmp_path / "b.array_record"), 0)[1] == "broken record"


def test_a_record_of_the_old_layout_asks_to_write_the_file_again(tmp_path):
    old = {"v": 1, "image": b"p", "captions": ["x"], "about": {}}
    array_files.write(tmp_path / "a.array_record", [msgpack.packb(old)])
    with pytest.raises(BadRecord, match="expected layout version 2, got version 1; write the file again") as error:
        opened(tmp_path)[0]
    assert error.value.kind == "old layout"


def test_a_changed_byte_makes_only_its_own_record_bad(tmp_path):
    path = tmp_path / "a.array_record"
    array_record.write(path, [Record("k", bytes(range(256)) * n, ("c",), {}) for n in range(1, 40)])
    content = bytearray(path.read_bytes())
    place = content.index(bytes(range(200)))
    content[place + 20] ^= 255
    path.write_bytes(content)
    found = opened(path)
    bad = []
    for index in range(len(found)):
        try:
            found[index]
        except BadRecord as error:
            bad.append((error.kind, error.key))
    assert len(bad) == 1
    assert bad[0][0] == "broken record"


def test_a_file_that_is_not_array_record_is_refused_by_name(tmp_path):
    path = tmp_path / "a.array_record"
    array_record.write(path, records(*range(50)))
    path.write_bytes(path.read_bytes()[:-1000])
    (tmp_path / "b.array_record").write_bytes(b"")
    for name in ("a", "b"):
        with pytest.raises(UserError, match=rf"{name}\.array_record: expected an array_record file"):
            opened(tmp_path / f"{name}.array_record")
    array_files.write(tmp_path / "c.array_record", [])
    with pytest.raises(UserError, match="expected records"):
        opened(tmp_path / "c.array_record")
    with pytest.raises(UserError, match="max_bytes"):
        opened(tmp_path, max_bytes=0)


def test_the_fingerprint_depends_on_contents_and_not_on_the_folder(tmp_path):
    one, other, changed = (tmp_path / name for name in ("x/a.array_record", "y/a.array_record", "z/a.array_record"))
    array_record.write(one, records(*range(30)))
    array_record.write(other, records(*range(30)))
    array_record.write(changed, [*records(*range(29)), Record("k", b"longer" * 99, ("c",), {})])
    assert opened(one).fingerprint() == opened(other).fingerprint() != opened(changed).fingerprint()
    assert opened(one).fingerprint() != opened(one, max_bytes=5000).fingerprint()


def test_threads_and_forked_processes_read_the_same_records(tmp_path):
    array_record.write(tmp_path / "a.array_record", records(*range(200)))
    found = opened(tmp_path)
    alone = [found[i] for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(found.__getitem__, range(200))) == alone
    with multiprocessing.get_context("fork").Pool(2) as workers:
        assert workers.map(found.__getitem__, range(200)) == alone


def test_a_failed_write_leaves_no_file_behind(tmp_path):
    def endless():
        yield b"x"
        raise UserError("the source ends")

    with pytest.raises(UserError, match="the source ends"):
        array_files.write(tmp_path / "a.array_record", endless())
    assert list(tmp_path.iterdir()) == []


class Ranges(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", str(hash(content)))
        self.end_headers()
        self.wfile.write(part)
        self.server.served += len(part)

    def log_message(self, *of):
        pass


@contextlib.contextmanager
def web(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder)))
    server.served = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_file_behind_a_url_is_downloaded_once_and_again_when_it_changes(tmp_path):
    array_record.write(tmp_path / "site/a.array_record", records(*range(20)))
    with web(tmp_path / "site") as (server, url):
        with pytest.raises(UserError, match=r"source\.cache"):
            opened(f"{url}/a.array_record")
        cache = {"cache": str(tmp_path / "cache")}
        assert opened(f"{url}/a.array_record", **cache)[7].captions == ("a 7", "one 7")
        served = server.served
        assert opened(f"{url}/a.array_record", **cache)[7].captions == ("a 7", "one 7")
        assert server.served - served < 100
        array_record.write(tmp_path / "site/a.array_record", records(*range(40, 60)))
        assert opened(f"{url}/a.array_record", **cache)[7].captions == ("a 47", "one 47")


def test_rows_find_their_files_past_empty_files():
    rows = Rows([2, 0, 3, 0])
    assert [rows.find(i) for i in range(len(rows))] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert short_names(["d/a", "d/e/b", "d/c"]) == ["a", "e/b", "c"]
    assert short_names(["x/y/z"]) == ["z"]
    assert short_names(["a/n", "b/n"]) == ["a/n", "b/n"]
