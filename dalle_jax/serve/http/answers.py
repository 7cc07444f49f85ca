"""Answers to requests for images: one JSON object, or a stream of server-sent events."""

import base64
import json
import time
from collections.abc import Callable, Sequence

from dalle_jax.serve.engine.served_model import Tokens
from dalle_jax.serve.engine.works import Drawn, Generate, Partial, Work
from dalle_jax.serve.http.works_of_bodies import CANDIDATES_OF_QUALITY, Order
from dalle_jax.serve.results.encoded_images import MEDIA_TYPES, encode, encode_gif
from dalle_jax.serve.results.provenance import Provenance, signed

NAMES_OF_CANDIDATES = {1: "low", 2: "medium", 4: "high", 8: "xhigh", 16: "max"}
SHORT_PROMPT, FEW_PIXELS = 2000, 2**12
"""Characters of a prompt, and pixels of an answer, up to which another thread would cost more than the work."""
KEEP_ALIVE = b": waiting\n\n"
"""A comment that keeps a stream's connection open; clients skip it."""


class Answer:
    """The answer of an order. ``store`` takes a file, its suffix and its media type, and returns its URL."""

    def __init__(self, order: Order, store: Callable[[bytes, str, str], str], *, sign: bool = False) -> None:
        self.order, self._store, self._sign = order, store, sign
        self.created = int(time.time())
        self._frames: dict[int, list[Partial]] = {}

    @property
    def verb(self) -> str:
        """The name of the events."""
        return "image_generation" if isinstance(self.order.work, Generate) else "image_edit"

    def is_small(self, images: Sequence[Drawn | Partial]) -> bool:
        """Return True if the images are encoded in less time than another thread takes to begin."""
        order, shapes = self.order, [one.pixels.shape for one in images]
        if order.by_url or order.file.form != "png" or len(prompt_of(order.work)) > SHORT_PROMPT:
            return False
        width, height = order.file.size or (shapes[0][1], shapes[0][0])
        return width * height * len(images) <= FEW_PIXELS

    def keep_frame(self, partial: Partial) -> None:
        """Keep a frame of a GIF."""
        self._frames.setdefault(partial.image, []).append(partial)

    def json(self, images: Sequence[Drawn]) -> bytes:
        """Return the body of an answer that is not streamed; encodes the images, so call it in a thread."""
        order, data = self.order, list[dict[str, object]]()
        for one in images:
            content, entry = self._file(one), self._entry(one)
            if order.by_url:
                entry["url"] = self._store(content, order.file.form, MEDIA_TYPES[order.file.form])
            else:
                entry["b64_json"] = base64.b64encode(content).decode()
            data.append(entry)
        body: dict[str, object] = {
            "created": self.created,
            "data": data,
            "background": "opaque",
            "output_format": order.file.form,
            "quality": NAMES_OF_CANDIDATES[CANDIDATES_OF_QUALITY[order.quality]],
            "size": self._size(images[0]),
            "usage": usage(order.model.tokens(order.work)),
            "model": order.model.name,
            "seed": order.work.options.seed,
            "warnings": order.model.warnings(order.work),
        }
        if order.user is not None:
            body["safety_identifier"] = order.user
        return json.dumps(body).encode()

    def partial_event(self, partial: Partial) -> bytes:
        """Return the event of an image as far as it is drawn."""
        one = Drawn(partial.pixels, partial.image, None)
        fields = self._event_fields(one) | {
            "b64_json": base64.b64encode(self._file(one)).decode(),
            "partial_image_index": partial.number,
            "image_index": partial.image,
        }
        return _event(f"{self.verb}.partial_image", fields)

    def completed_event(self, images: Sequence[Drawn], number: int) -> bytes:
        """Return the event of a finished image; the usages of all images add up to that of the request."""
        one, tokens = images[number], self.order.model.tokens(self.order.work)
        own = tokens.drawn * (number + 1) // len(images) - tokens.drawn * number // len(images)
        shared = Tokens(tokens.text, tokens.images, own) if number == 0 else Tokens(0, 0, own)
        fields = self._event_fields(one) | {
            "b64_json": base64.b64encode(self._file(one)).decode(),
            "image_index": number,
            "usage": usage(shared),
            "model": self.order.model.name,
            "warnings": self.order.model.warnings(self.order.work),
            **self._entry(one),
        }
        if self.order.user is not None:
            fields["safety_identifier"] = self.order.user
        return _event(f"{self.verb}.completed", fields)

    def _entry(self, one: Drawn) -> dict[str, object]:
        return {"seed": self.order.work.options.seed, "candidate": one.candidate, "score": one.score}

    def _event_fields(self, one: Drawn) -> dict[str, object]:
        quality = {"standard": "low", "hd": "high"}.get(self.order.quality, self.order.quality)
        return {
            "created_at": self.created, "size": self._size(one), "quality": quality, "background": "opaque",
            "output_format": self.order.file.form,
        }  # fmt: skip

    def _size(self, one: Drawn) -> str:
        width, height = self.order.file.size or (one.pixels.shape[1], one.pixels.shape[0])
        return f"{width}x{height}"

    def _file(self, one: Drawn) -> bytes:
        order = self.order
        origin = Provenance(order.model.name, prompt_of(order.work), order.work.options.seed, one.candidate)
        pixels = signed(one.pixels) if self._sign else one.pixels
        frames = [frame.pixels for frame in self._frames.get(one.candidate, [])]
        if frames:
            return encode_gif([*frames, pixels], order.file, origin)
        return encode(pixels, order.file, origin)


def prompt_of(work: Work) -> str:
    """Return the prompt of a work; empty if it has none."""
    return work.prompt or ""


def usage(tokens: Tokens) -> dict[str, object]:
    """Return the usage in the API's form."""
    given = tokens.text + tokens.images
    return {
        "input_tokens": given,
        "input_tokens_details": {"text_tokens": tokens.text, "image_tokens": tokens.images},
        "output_tokens": tokens.drawn,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": tokens.drawn},
        "total_tokens": given + tokens.drawn,
    }


def _event(name: str, fields: dict[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | fields)}\n\n".encode()
