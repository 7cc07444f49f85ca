"""Who may use the server: keys from a file, a rate per client, and requests of the browser's other pages refused."""

import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import Sequence

from starlette.requests import Request

from dalle_jax.config.errors import UserError
from dalle_jax.serve.http.api_errors import ApiError
from dalle_jax.storage import Place
from dalle_jax.untrusted import read_text_file

SHORTEST_KEY = 16
"""Fewest characters of a key."""
MOST_CLIENTS = 10_000
"""Clients whose rates are remembered."""
HOST = re.compile(r"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?$")


def read_keys(place: Place) -> list[str]:
    """Read one key per line; lines that open with # are comments. The keys are never written to a log."""
    lines = [line.strip() for line in read_text_file(place).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    short = [number for number, one in enumerate(keys, 1) if len(one) < SHORTEST_KEY]
    if not keys or short:
        got = f"key {short[0]} is shorter" if short else "no key"
        raise UserError(f"{place}: expected keys of at least {SHORTEST_KEY} characters, one per line, got: {got}")
    return keys


class Keys:
    """The accepted keys, as hashes; without any, every request is accepted."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._hashes = [hashlib.sha256(one.encode()).digest() for one in keys]

    @property
    def required(self) -> bool:
        """True if there are keys."""
        return bool(self._hashes)

    def client(self, request: Request) -> str:
        """Return the client's name: of its key, or its address without keys. Raise the 401 of a wrong key.

        All keys are compared, each in constant time.
        """
        if not self._hashes:
            return "address " + ("" if request.client is None else request.client.host)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        found = hashlib.sha256(given.strip().encode()).digest()
        matches = [hmac.compare_digest(found, one) for one in self._hashes]
        if scheme.lower() != "bearer" or not any(matches):
            raise ApiError(401, "expected a valid key as Authorization: Bearer KEY", code="invalid_api_key")
        return f"key {matches.index(True) + 1}"


class RateLimit:
    """A bucket of tokens for each client: ``per_minute`` requests, as many at once; 0 is no limit."""

    def __init__(self, per_minute: int = 0) -> None:
        self._rate = per_minute / 60
        self._most = float(per_minute)
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, client: str) -> None:
        """Count a request. Raise the 429 of a client without tokens."""
        if not self._rate:
            return
        now = time.monotonic()
        left, before = self._clients.pop(client, (self._most, now))
        left = min(self._most, left + (now - before) * self._rate)
        self._clients[client] = (left - 1 if left >= 1 else left, now)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        if left < 1:
            after = max(1, round((1 - left) / self._rate))
            raise ApiError(
                429, "too many requests of this client", kind="requests", code="rate_limit_exceeded", retry=True,
                after=after,
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Return True for an address or a name of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_origin(request: Request, *, loopback: bool) -> None:
    """Refuse a request that a page of another origin sent, and a name that was bound to this machine (DNS rebinding).

    Clients other than browsers send no Origin. A server that listens on ``loopback`` alone answers to its names only.
    """
    host = request.headers.get("host", "")
    if not HOST.match(host):
        raise ApiError(400, "Host: expected a name or an address, and a port", code="invalid_host")
    name = host if host.startswith("[") and host.endswith("]") else host.rsplit(":", 1)[0] if ":" in host else host
    if loopback and not is_loopback(name):
        raise ApiError(403, "Host: expected a name of this machine", code="invalid_host")
    origin = request.headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        if request.method in ("GET", "HEAD") and origin is None:
            return  # a link from another page
        raise ApiError(403, "Origin: expected this server's own page", code="cross_origin")
