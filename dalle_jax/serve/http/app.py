"""The application: all routes, and the checks and headers that all of them share."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dalle_jax.serve.http.access import Keys, RateLimit, check_origin
from dalle_jax.serve.http.api_errors import ApiError, internal
from dalle_jax.serve.http.image_routes import ImageRoutes
from dalle_jax.serve.http.information_routes import InformationRoutes

LOG = logging.getLogger(__name__)
SEND_SECONDS = 120.0
"""Longest time for a client to read a piece of an answer; after it the connection is given up."""
QUIET = ("/healthz", "/readyz", "/metrics")
"""Routes that are asked so often that the log leaves them out."""
OPEN = ("/", "/healthz", "/readyz", "/favicon.ico", "/openapi.json")
"""Paths that need no key; nor do /assets/ and the signed /files/."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""The page loads only its own files, and shows images that it holds itself."""
SECURITY_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
Handler = Callable[[Request], Awaitable[Response]]


def build_app(
    images: ImageRoutes, *, keys: Keys | None = None, rate: RateLimit | None = None, loopback: bool = True
) -> ASGIApp:
    """Return the application. ``loopback`` says that it listens on this machine alone."""
    access, limit = keys or Keys(), rate or RateLimit()
    about = InformationRoutes(images.engine, images.files)

    def drawing(handler: Handler) -> Handler:
        async def limited(request: Request) -> Response:
            limit.spend(request.state.client_name)
            return await handler(request)

        return limited

    routes = [
        Route("/v1/images/generations", drawing(images.generations), methods=["POST"]),
        Route("/v1/images/edits", drawing(images.edits), methods=["POST"]),
        Route("/v1/images/variations", drawing(images.variations), methods=["POST"]),
        Route("/v1/models", about.models),
        Route("/v1/models/{name:path}", about.model),
        Route("/files/{name}", about.file),
        Route("/healthz", about.health),
        Route("/readyz", about.readiness),
        Route("/metrics", about.metrics),
        Route("/openapi.json", about.openapi),
        *page_routes(),
    ]
    handlers = {ApiError: _api_error, HTTPException: _http_error, Exception: _fault}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, access, images, loopback=loopback)


def page_routes() -> list[Route]:
    """Return the routes of the page's files, which are read once; no path of a request reaches the disk."""
    root = resources.files("dalle_jax.serve") / "web"
    found = {}
    if (root / "index.html").is_file():
        found["/"] = root / "index.html"
    if (root / "assets").is_dir():
        found |= dict(_files_below(root / "assets", "/assets"))
    return [Route(path, _static(one.read_bytes(), one.name)) for path, one in found.items()]


def _files_below(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for one in folder.iterdir():
        if one.is_file():
            yield f"{path}/{one.name}", one
        elif one.name != "__pycache__":
            yield from _files_below(one, f"{path}/{one.name}")


_TYPES = {
    "html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml", "png": "image/png", "ico": "image/x-icon", "json": "application/json",
    "webmanifest": "application/manifest+json", "woff2": "font/woff2",
}  # fmt: skip


def _static(content: bytes, name: str) -> Handler:
    media_type = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")

    async def send(request: Request) -> Response:
        del request
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return send


async def _api_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, ApiError)
    return error.response()


async def _fault(request: Request, error: Exception) -> Response:
    del request, error  # Starlette raises it again, and Guard logs it
    return internal().response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Return Starlette's own errors, of unknown paths and methods, in the API's form."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:80]}: {error.detail}"
    answer = ApiError(error.status_code, message, code="unknown_url" if error.status_code == 404 else None).response()
    answer.headers.update(error.headers or {})  # Allow, of a 405
    return answer


class Guard:
    """The outermost layer: request ids, headers, keys, origins, slow readers, metrics, and faults as a plain 500."""

    def __init__(self, app: ASGIApp, keys: Keys, images: ImageRoutes, *, loopback: bool) -> None:
        self._app, self._keys, self._images, self._loopback = app, keys, images, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, begin = f"req_{secrets.token_hex(16)}", time.monotonic()
        metrics, route = self._images.engine.metrics, _route(scope["path"])
        status = 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers["x-request-id"] = number
                headers["openai-processing-ms"] = str(round(1000 * (time.monotonic() - begin)))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                message["headers"] = headers.raw
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError as error:
                raise ConnectionAbortedError("the client does not read") from error

        try:
            await self._admit(scope, receive, guarded)
        except ConnectionAbortedError:
            LOG.info("%s: the client does not read", number)
        except Exception:
            LOG.exception("%s: a fault", number)
            metrics.errors.labels("http").inc()
            if status == 0:
                await internal().response()(scope, receive, guarded)
        finally:
            metrics.requests.labels(route, str(status or 499)).inc()
            metrics.seconds.labels(route).observe(time.monotonic() - begin)
            LOG.log(
                logging.DEBUG if route in QUIET else logging.INFO,
                "%s %s %s %s %.0f ms",
                number,
                scope["method"],
                route,
                status or 499,
                1000 * (time.monotonic() - begin),
            )

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check origin and key, and hand the request on."""
        request = Request(scope, receive)
        try:
            check_origin(request, loopback=self._loopback)
            is_open = scope["path"] in OPEN or scope["path"].startswith(("/assets/", "/files/"))
            scope.setdefault("state", {})["client_name"] = "" if is_open else self._keys.client(request)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _route(path: str) -> str:
    """Return a path as a label of metrics and of the log, of which there are few."""
    fixed = re.match(r"/(?:v1/(?:images/(?:generations|edits|variations)|models)|files|assets|healthz|readyz|metrics"
                     r"|openapi\.json)(?=/|$)|/$", path)  # fmt: skip
    return fixed[0] if fixed else "other"
