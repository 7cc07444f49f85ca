"""A server of given models in a thread of the test's process, on a free port."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from dalle_jax.serve.engine.engine import Engine
from dalle_jax.serve.http.access import Keys, RateLimit
from dalle_jax.serve.http.app import build_app
from dalle_jax.serve.http.image_routes import ImageRoutes
from dalle_jax.serve.results.signed_files import SignedFiles
from dalle_jax.serve.safety import NoFilter, SafetyFilter


@dataclass
class Running:
    url: str
    engine: Engine
    routes: ImageRoutes


@contextlib.contextmanager
def running(
    *models, queue: int = 64, keys: tuple[str, ...] = (), rate: int = 0, deadline: float = 30.0,
    safety: SafetyFilter | None = None, loopback: bool = True,
) -> Iterator[Running]:  # fmt: skip
    engine, files = Engine(models, queue=queue), SignedFiles()
    engine.start()
    routes = ImageRoutes(engine, files, safety or NoFilter(), deadline=deadline)
    app = build_app(routes, keys=Keys(keys), rate=RateLimit(rate), loopback=loopback)
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", http="h11", loop="asyncio", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.002)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", engine, routes)
    finally:
        for model in models:
            model.gate.set()
        server.should_exit = True
        thread.join(10)
        engine.close()
        files.close()
