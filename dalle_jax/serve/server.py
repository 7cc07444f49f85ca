"""The server process: uvicorn around the application, and a stop that loses no accepted request."""

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from dalle_jax.serve.engine.engine import Engine

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """The address, and the seconds in which accepted requests may finish after SIGTERM."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace: int = 120
    connections: int = 1000


class DrainingServer(uvicorn.Server):
    """A server whose engine takes no new jobs from the moment of the signal on."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new jobs, finish those that were accepted, then stop. A second Ctrl-C stops at once.

        Unlike uvicorn's own, this does not end the process by the same signal afterwards.
        """
        del frame
        self._drain()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def serve(app: ASGIApp, engine: Engine, where: Listening) -> None:
    """Serve until a signal. The engine compiles meanwhile, so that /healthz answers at once."""
    config = uvicorn.Config(
        app, host=where.host, port=where.port, access_log=False, log_level="warning", server_header=False,
        timeout_graceful_shutdown=where.grace, limit_concurrency=where.connections, timeout_keep_alive=30,
        h11_max_incomplete_event_size=65_536, lifespan="off", http="h11", loop="asyncio", ws="none",
    )  # fmt: skip
    server = DrainingServer(config, engine.drain)
    engine.start()
    asyncio.run(_run(server, where))
    engine.close()


async def _run(server: DrainingServer, where: Listening) -> None:
    serving = asyncio.ensure_future(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    for listener in server.servers if server.started else []:
        for socket in listener.sockets:
            host, port = socket.getsockname()[:2]
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    await serving
