"""Keys, hosts, origins, rates, and bounds of bodies, as raw requests."""

import http.client
import json

import pytest
from running_server import running
from solid_model import SolidModel

from dalle_jax.config.errors import UserError
from dalle_jax.serve.http.access import is_loopback, read_keys
from dalle_jax.serve.http.request_bodies import MOST_JSON

KEY = "sk-0123456789abcdef"
BODY = json.dumps({"prompt": "a", "model": "solid"})
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server():
    with running(SolidModel(), keys=(KEY, "sk-another-key-here"), rate=2) as found:
        yield found


@pytest.fixture(scope="module")
def open_server():
    with running(SolidModel()) as found:
        yield found


def ask(server, method="GET", path="/v1/models", body=None, headers=None):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def with_key(key=KEY):
    return {"authorization": f"Bearer {key}"}


def test_a_wrong_or_absent_key_is_a_401_and_open_paths_need_none(server):
    assert ask(server)[0] == 401
    assert ask(server, headers=with_key("sk-0123456789abcdeF"))[0] == 401
    assert ask(server, headers={"authorization": f"Basic {KEY}"})[0] == 401
    assert ask(server, path="/metrics")[0] == 401
    assert json.loads(ask(server)[1])["error"]["code"] == "invalid_api_key"
    assert ask(server, headers=with_key())[0] == 200
    assert [ask(server, path=one)[0] for one in ("/", "/healthz", "/readyz", "/openapi.json")] == [200] * 4


def test_a_client_beyond_its_rate_is_told_when_to_come_back(server):
    found = [ask(server, "POST", "/v1/images/generations", BODY, JSON | with_key())[0] for _ in range(3)]
    assert found == [200, 200, 429]
    status, _, headers = ask(server, "POST", "/v1/images/generations", BODY, JSON | with_key())
    assert (status, headers["x-should-retry"]) == (429, "true")
    assert int(headers["retry-after"]) >= 1
    assert ask(server, "POST", "/v1/images/generations", BODY, JSON | with_key("sk-another-key-here"))[0] == 200


def test_pages_of_other_origins_and_foreign_host_names_are_refused(open_server):
    own = open_server.url
    for headers, status in (
        ({"origin": own}, 200),
        ({"origin": "https://example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "attacker.example.org"}, 403),
        ({"host": "127.0.0.1/x"}, 400),
        ({"host": "a b"}, 400),
    ):
        assert ask(open_server, "POST", "/v1/images/generations", BODY, JSON | headers)[0] == status, headers
    assert ask(open_server, path="/", headers={"sec-fetch-site": "cross-site"})[0] == 200  # a link


def test_every_answer_has_a_request_id_and_the_headers_of_security(open_server):
    for path in ("/", "/v1/models", "/nothing", "/files/x"):
        headers = ask(open_server, path=path)[2]
        assert headers["x-request-id"].startswith("req_")
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


def test_unknown_paths_and_methods_are_errors_in_the_form_of_the_api(open_server):
    status, body, _ = ask(open_server, path="/v1/nothing")
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    status, _, headers = ask(open_server, "DELETE", "/v1/models")
    assert (status, {one.strip() for one in headers["allow"].split(",")}) == (405, {"GET", "HEAD"})
    for path in (
        "/assets/../../setup.py",
        "/assets/%2e%2e/index.html",
        "/files/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
    ):
        assert ask(open_server, path=path)[0] == 404


def test_a_signed_url_with_another_signature_expiry_or_name_is_a_404(open_server):
    body = json.dumps({"prompt": "a"})
    answer = json.loads(ask(open_server, "POST", "/v1/images/generations", body, JSON)[1])
    path = answer["data"][0]["url"].removeprefix(open_server.url)
    assert ask(open_server, path=path)[0] == 200
    assert ask(open_server, path=path[:-1] + ("0" if path[-1] != "0" else "1"))[0] == 404
    assert ask(open_server, path=path.replace("expires=1", "expires=2"))[0] == 404
    assert ask(open_server, path=path.partition("?")[0])[0] == 404


def test_a_body_that_is_too_large_is_refused_before_it_is_read(open_server):
    headers = JSON | {"content-length": str(MOST_JSON + 1)}
    assert ask(open_server, "POST", "/v1/images/generations", b"{", headers)[0] == 413

    def pieces():
        for _ in range(MOST_JSON // 1000 + 1):
            yield b" " * 1000

    assert ask(open_server, "POST", "/v1/images/generations", pieces(), JSON)[0] == 413


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (BODY, {"content-type": "text/plain"}, 415),
        (BODY, {}, 415),
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b'{"prompt": "\\ud800"}', JSON, 400),
        (b'{"prompt": "a", "prompt": "b"}', JSON, 400),
        (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", JSON, 400),
        (b"[" * 100_000, JSON, 400),
    ],
)
def test_a_broken_body_is_a_4xx(open_server, body, headers, status):
    assert ask(open_server, "POST", "/v1/images/generations", body, headers)[0] == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nno file\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="x"; filename="../../x"\r\n\r\na\r\n--b--\r\n',
        b"\x00" * 1000,
    ],
)
def test_a_broken_form_is_a_400(open_server, body):
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert ask(open_server, "POST", "/v1/images/variations", body, headers)[0] == 400
    assert ask(open_server, "POST", "/v1/images/edits", body, {"content-type": "multipart/form-data"})[0] == 400


def test_a_name_in_a_request_never_becomes_a_header(open_server):
    body = json.dumps({"prompt": "a", "model": "x\r\nset-cookie: y=1"})
    status, _, headers = ask(open_server, "POST", "/v1/images/generations", body, JSON)
    assert status == 404
    assert "set-cookie" not in headers


def test_keys_are_read_one_per_line_and_short_ones_are_refused(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{KEY}\n")
    assert read_keys(file) == [KEY]
    for text in ("", "# none\n", "short\n"):
        file.write_text(text)
        with pytest.raises(UserError, match="expected keys of at least 16 characters"):
            read_keys(file)


def test_addresses_of_this_machine_are_recognised():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "")))
