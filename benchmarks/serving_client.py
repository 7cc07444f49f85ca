"""A client for measuring a server: one socket that stays open, and little work beside it.

A usual HTTP client takes more of a core than the server's own HTTP, and on a machine of two cores its time would be
counted as the server's.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass
class Answered:
    """An answer; ``seconds`` are from the first byte that is sent to the last one that comes."""

    seed: int
    status: int
    seconds: float
    image: str | None
    retry_after: str | None = None


class SocketClient:
    """A connection to ``host:port``."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://")
        host, port = self._address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=300)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def generate(self, seed: int, body: dict[str, object]) -> Answered:
        """Send a request for images, and read its answer."""
        content = json.dumps(body).encode()
        head = (
            f"POST /v1/images/generations HTTP/1.1\r\nHost: {self._address}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        begin = time.perf_counter()
        self._socket.sendall(head.encode() + content)
        status, answer = self._read()
        seconds = time.perf_counter() - begin
        image = json.loads(answer)["data"][0]["b64_json"] if status == 200 else None
        return Answered(seed, status, seconds, image)

    def _read(self) -> tuple[int, bytes]:
        """Read an answer that states its length."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
        length, parts = int(fields[b"content-length"]) - len(rest), [rest]
        while length > 0:
            parts.append(self._receive())
            length -= len(parts[-1])
        return int(lines[0].split()[1]), b"".join(parts)

    def _receive(self) -> bytes:
        found = self._socket.recv(2**18)
        if not found:
            raise ConnectionError("the server closed the connection")
        return found

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def from_sockets(
    url: str, clients: int, seeds: Sequence[int], body: Callable[[int], dict[str, object]]
) -> list[Answered]:
    """Let ``clients`` ask for the images of all seeds, each for one after the other, from a thread of its own."""
    waiting, found, lock = list(reversed(seeds)), list[Answered](), threading.Lock()

    def work() -> None:
        client = SocketClient(url)
        while True:
            with lock:
                if not waiting:
                    break
                seed = waiting.pop()
            found.append(client.generate(seed, body(seed)))
        client.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return found
