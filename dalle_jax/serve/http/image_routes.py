"""The routes that draw: generations, edits and variations."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dalle_jax.config.errors import UserError
from dalle_jax.serve.engine.engine import Draining, Engine, QueueFull
from dalle_jax.serve.engine.serve_job import Expired, Job
from dalle_jax.serve.engine.works import Event, Failed, Finished, Partial
from dalle_jax.serve.http.answers import KEEP_ALIVE, SHORT_PROMPT, Answer, prompt_of
from dalle_jax.serve.http.api_errors import ApiError, internal, of_user_error
from dalle_jax.serve.http.image_bodies import EditBody, GenerationBody, ImagesBody, VariationBody
from dalle_jax.serve.http.request_bodies import read_form, read_json, receive_form, validated
from dalle_jax.serve.http.works_of_bodies import Order, edit_order, generation_order, variation_order
from dalle_jax.serve.results.signed_files import SignedFiles
from dalle_jax.serve.safety import NoFilter, SafetyFilter, Unsafe

LOG = logging.getLogger(__name__)
KEEP_ALIVE_SECONDS = 15.0
FORMS_AT_ONCE = 64
"""Forms that arrive at once, whose large files are on disk."""
DECODED_AT_ONCE = 4
"""Forms that are decoded at once, so that their images fit in memory."""

T = TypeVar("T")


@dataclass
class ImageRoutes:
    """The handlers of the three routes. ``deadline`` is in seconds from a request's arrival."""

    engine: Engine
    files: SignedFiles
    safety: SafetyFilter = field(default_factory=NoFilter)
    deadline: float = 600.0
    public_url: str | None = None
    sign: bool = False
    _arriving: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FORMS_AT_ONCE))
    _decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DECODED_AT_ONCE))

    async def generations(self, request: Request) -> Response:
        """Answer ``POST /v1/images/generations``."""
        body = validated(GenerationBody, await read_json(request))
        filtered = not isinstance(self.safety, NoFilter)
        make = functools.partial(generation_order, self.engine.models, body, filtered)
        is_short = len(body.prompt) + len(body.negative_prompt or "") <= SHORT_PROMPT
        return await self._answer(request, make() if is_short else await _in_thread(make))

    async def edits(self, request: Request) -> Response:
        """Answer ``POST /v1/images/edits``."""
        return await self._answer(request, await self._of_form(request, EditBody, edit_order))

    async def variations(self, request: Request) -> Response:
        """Answer ``POST /v1/images/variations``."""
        return await self._answer(request, await self._of_form(request, VariationBody, variation_order))

    async def _of_form(self, request: Request, kind: type[ImagesBody], order: Callable[..., Order]) -> Order:
        async with self._arriving:
            received = await receive_form(request, kind)
        try:
            async with self._decoding:
                form = await read_form(received, kind)
                body = validated(kind, form.texts, strings=True)
                return await _in_thread(order, self.engine.models, body, form)
        finally:
            await received.close()

    async def _answer(self, request: Request, order: Order) -> Response:
        """Put an order into the engine, and return its answer or a stream of it."""
        if not isinstance(self.safety, NoFilter):
            try:
                await _in_thread(self.safety.check_prompt, prompt_of(order.work))
            except Unsafe as error:
                raise _unsafe(error) from error
        answer = Answer(order, functools.partial(self._store, _base_url(request, self.public_url)), sign=self.sign)
        events, job = self._submit(order)
        if order.streamed:
            headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
            stream = self._stream(request, answer, job, events)
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
        try:
            async for event in self._events(request, job, events):
                if isinstance(event, Partial):
                    answer.keep_frame(event)
                elif isinstance(event, Failed):
                    raise self._error_of(event.error)
                elif isinstance(event, Finished):
                    make = functools.partial(answer.json, event.images)
                    body = make() if answer.is_small(event.images) else await _in_thread(make)
                    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})
        finally:
            self._give_up(job)
        raise ApiError(499, "the client went away")

    def _submit(self, order: Order) -> tuple["asyncio.Queue[Event]", Job]:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def deliver(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        review = None if isinstance(self.safety, NoFilter) else self.safety.check_image
        job = Job(order.model.name, order.work, deliver, review, time.monotonic() + self.deadline)
        try:
            self.engine.submit(job)
        except QueueFull as error:
            raise ApiError(
                429, "the queue is full", kind="requests", code="rate_limit_exceeded", retry=True, after=error.seconds
            ) from error
        except Draining as error:
            raise ApiError(
                503, "the server takes no new requests", kind="server_error", code="unavailable", retry=True, after=5,
            ) from error  # fmt: skip
        return events, job

    async def _events(
        self, request: Request, job: Job, events: "asyncio.Queue[Event]", every: float | None = None
    ) -> AsyncIterator[Event | None]:
        """Yield the events of a job until its end or until the client is gone; None ``every`` so many seconds.

        A job past its deadline that the engine has not looked at ends here.
        """
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            while True:
                coming = asyncio.ensure_future(events.get())
                left = max(0.0, job.deadline - time.monotonic()) + 1.0
                await asyncio.wait(
                    {coming, gone}, timeout=left if every is None else min(left, every),
                    return_when=asyncio.FIRST_COMPLETED,
                )  # fmt: skip
                if coming.done():
                    event = coming.result()
                    yield event
                    if isinstance(event, Finished | Failed):
                        return
                    continue
                coming.cancel()
                if gone.done():
                    return
                if time.monotonic() > job.deadline + 1.0:
                    yield Failed(Expired())
                    return
                yield None
        finally:
            gone.cancel()

    async def _stream(
        self, request: Request, answer: Answer, job: Job, events: "asyncio.Queue[Event]"
    ) -> AsyncIterator[bytes]:
        try:
            async for event in self._events(request, job, events, KEEP_ALIVE_SECONDS):
                if event is None:
                    yield KEEP_ALIVE
                elif isinstance(event, Partial):
                    show = functools.partial(answer.partial_event, event)
                    yield show() if answer.is_small([event]) else await _in_thread(show)
                elif isinstance(event, Failed):
                    yield self._error_of(event.error).event()
                else:
                    for number in range(len(event.images)):
                        yield await _in_thread(answer.completed_event, event.images, number)
                    yield b"data: [DONE]\n\n"
        finally:
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        if not job.ended:
            job.cancel()
            self.engine.wake()

    def _error_of(self, error: Exception) -> ApiError:
        if isinstance(error, UserError):
            return of_user_error(error)
        if isinstance(error, Unsafe):
            return _unsafe(error)
        if isinstance(error, Expired):
            return ApiError(
                504, f"not done within {self.deadline:g} s", kind="server_error", code="deadline_exceeded", retry=True
            )
        LOG.error("a work failed", exc_info=error)
        self.engine.metrics.errors.labels("work").inc()
        return internal()

    def _store(self, base: str, content: bytes, suffix: str, media_type: str) -> str:
        return base + self.files.add(content, suffix, media_type)


def _unsafe(error: Unsafe) -> ApiError:
    return ApiError(400, str(error), code="content_policy_violation", kind="image_generation_user_error")


def _base_url(request: Request, public: str | None) -> str:
    """Return the start of URLs; the request's own host was checked to be a name or an address."""
    return public.rstrip("/") if public else f"{request.url.scheme}://{request.headers['host']}"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _in_thread(call: Callable[..., T], *given: object) -> T:
    return await anyio.to_thread.run_sync(functools.partial(call, *given))
