"""The server with painted models, in a thread of the test."""

import socket
import threading

import uvicorn
from dalle_jax.serve.engine.engine import Engine
from dalle_jax.serve.http.access import Keys
from dalle_jax.serve.http.app import build_app
from dalle_jax.serve.http.image_routes import ImageRoutes
from dalle_jax.serve.results.signed_files import SignedFiles

from tests.serve.web.painted_model import DIFFUSION, TRANSFORMER, PaintedModel


class PageServer:
    """A server on a free port, with a transformer and a diffusion model."""

    def __init__(self, *, keys: tuple[str, ...] = ()) -> None:
        self.models = [PaintedModel("painted", TRANSFORMER), PaintedModel("painted-unclip", DIFFUSION)]
        self.engine, self.files = Engine(self.models), SignedFiles()
        app = build_app(ImageRoutes(self.engine, self.files), keys=Keys(keys))
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", http="h11", ws="none"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._uvicorn.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"

    def __enter__(self) -> "PageServer":
        self.engine.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for model in self.models:
            model.release.set()
        self._uvicorn.should_exit = True
        self._thread.join(timeout=10)
        self.engine.close()
        self.files.close()
