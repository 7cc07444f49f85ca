import http.server
import re
import threading

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.files import http_ranges
from dalle_jax.data.files.ranges import find_file, read_range
from dalle_jax.data.sources.webdataset import WebDataset
from tests.data.tars import sample, write


class Server(http.server.BaseHTTPRequestHandler):
    """A server of byte ranges of ``files``. The next answer has the first fault in ``faults``, if there are any."""

    files: dict[str, bytes]
    faults: list[int | str]
    asked: list[tuple[str, int]]
    ranges = True

    def do_GET(self):
        content = self.files.get(self.path)
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.asked.append((self.path, last - first + 1))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int) or content is None:
            self.send_error(fault or 404)
            return
        part = content[first : last + 1]
        if self.ranges and not part:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if self.ranges else 200)
        if self.ranges:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hash(content)}"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[:-1] if fault == "cut" else part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The handler class of a running local server, with its ``url``."""
    monkeypatch.setattr(http_ranges, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("OneServer", (Server,), {"files": {}, "faults": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        handler.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield handler
        running.shutdown()
        thread.join()


def test_tars_on_a_web_server_are_read_with_one_request_per_record(server, tmp_path):
    for number in range(3):
        path = write(tmp_path / f"{number}.tar", *sample(f"{number}0"), *sample(f"{number}1"))
        server.files[f"/set/{number}.tar"] = path.read_bytes()
    here = WebDataset(files=(str(tmp_path),)).open()
    config = WebDataset(files=(f"{server.url}/set/{{0..2}}.tar",), index_folder=str(tmp_path / "indexes"))
    records = config.open()
    assert len(server.asked) == 3 * 2  # its size, and all headers
    assert list(records) == list(here)
    assert records.fingerprint() == here.fingerprint()
    server.asked.clear()
    again = config.open()
    assert again[3] == here[3]
    assert [path for path, _ in server.asked] == ["/set/0.tar", "/set/1.tar", "/set/2.tar", "/set/1.tar"]
    assert server.asked[-1][1] < 2048  # of a tar of 10,240
    server.files["/set/1.tar"] = server.files["/set/0.tar"]
    changed = config.open()
    keys = [changed.key(index) for index in range(len(changed))]
    assert keys == ["00", "01", "1.tar:00", "1.tar:01", "20", "21"] and not changed.problems


def test_ranges_beyond_the_end_are_short_and_empty_files_are_empty(server):
    server.files = {"/a": b"abcdef", "/empty": b""}
    file = find_file(f"{server.url}/a")
    assert [read_range(file, start, 3) for start in (0, 4, 6)] == [b"abc", b"ef", b""]
    assert read_range(file, 2, 0) == b""
    assert find_file(f"{server.url}/empty").size == 0
    assert find_file(f"{server.url}/a").stamp != find_file(f"{server.url}/empty").stamp or not file.stamp


@pytest.mark.parametrize("faults", [[503], [429, 500, 502], ["cut"], ["cut", 503, "cut"]])
def test_temporary_faults_are_retried(server, faults):
    server.files = {"/a": b"abcdef"}
    server.faults[:] = faults
    assert http_ranges.read_url_range(f"{server.url}/a", 1, 3) == b"bcd"
    assert len(server.asked) == len(faults) + 1


def test_a_lasting_fault_is_an_error_that_describes_it(server):
    server.files = {"/a": b"abcdef"}
    url = f"{server.url}/a"
    server.faults[:] = [503] * http_ranges.TRIES
    with pytest.raises(UserError, match=r"cannot read http.*/a: the server answered 503"):
        http_ranges.read_url_range(url, 0, 1)
    server.faults[:] = [403]
    with pytest.raises(UserError, match="403 Forbidden"):
        http_ranges.read_url_range(url, 0, 1)
    assert len(server.asked) == http_ranges.TRIES + 1
    server.faults[:] = ["cut"] * http_ranges.TRIES
    with pytest.raises(UserError, match="check the network"):
        http_ranges.read_url_range(url, 0, 2)
    with pytest.raises(UserError, match=r"cannot read http.*/b: no such file"):
        find_file(f"{server.url}/b")
    server.ranges = False
    with pytest.raises(UserError, match="expected a server that sends byte ranges"):
        find_file(url)
