"""The routes that say something about the server: models, files, health, metrics, and the description of the API."""

import time
from dataclasses import asdict, dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dalle_jax.serve.engine.engine import Engine
from dalle_jax.serve.engine.served_model import ServedModel
from dalle_jax.serve.http.api_errors import ApiError
from dalle_jax.serve.http.model_choice import ALIASES, choose_model, unknown_model
from dalle_jax.serve.http.openapi import openapi_document
from dalle_jax.serve.results.signed_files import SignedFiles


@dataclass
class InformationRoutes:
    """The handlers."""

    engine: Engine
    files: SignedFiles
    _started: int = field(default_factory=lambda: int(time.time()))

    async def models(self, request: Request) -> Response:
        """Answer ``GET /v1/models``: the loaded models."""
        del request
        listed = [self._described(one.name, one) for one in self.engine.models.values()]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        """Answer ``GET /v1/models/{id}``, also for OpenAI's names."""
        name = request.path_params["name"]
        if name not in self.engine.models and name not in ALIASES:
            raise unknown_model(name)
        return JSONResponse(self._described(name, choose_model(self.engine.models, name, "generate")))

    async def file(self, request: Request) -> Response:
        """Answer a signed URL of an image."""
        given = [request.query_params.get(one, "") for one in ("expires", "signature")]
        found = self.files.read(request.path_params["name"], *given)
        if found is None:
            raise ApiError(404, "expected the URL of an image that is still there, got another", code="not_found")
        content, media_type = found
        headers = {"cache-control": "private, max-age=3600", "content-security-policy": "default-src 'none'; sandbox"}
        return Response(content, media_type=media_type, headers=headers)

    async def health(self, request: Request) -> Response:
        """Answer ``GET /healthz``: 200 while the engine's thread lives, also while it compiles."""
        del request
        return JSONResponse({"status": "ok" if self.engine.alive else "failed"}, 200 if self.engine.alive else 500)

    async def readiness(self, request: Request) -> Response:
        """Answer ``GET /readyz``: 200 if requests are taken, 503 while the models are compiled and while it drains."""
        del request
        ready = self.engine.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Answer ``GET /metrics`` in the text format of Prometheus."""
        del request
        return Response(self.engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """Answer ``GET /openapi.json``."""
        del request
        return JSONResponse(openapi_document())

    def _described(self, name: str, model: ServedModel) -> dict[str, object]:
        defaults = model.options({})
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "dalle_jax",
            "abilities": asdict(model.abilities),
            "defaults": {
                one: getattr(defaults, one) for one in ("guidance", "temperature", "top_k", "top_p")
                if one in model.abilities.options
            },
        }  # fmt: skip
