"""Encode a data set's images to the codes of a trained image tokenizer, on all devices of all hosts."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import jax
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.code_record import encode_codes
from dalle_jax.data.precomputed.manifest import Encoding
from dalle_jax.data.precomputed.writer import CodeFolder
from dalle_jax.data.source import EpochSource, Example, Source
from dalle_jax.images.pixels import centre_square, to_float
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules

SAY_EVERY = 10.0
"""Seconds between two lines of progress."""


def fingerprint(tokenizer: ImageTokenizer) -> str:
    """Hash the names and values of all parameters; tokenizers with the same hash give the same codes."""
    digest = hashlib.sha256()
    for path, value in sorted(nnx.to_flat_state(nnx.state(tokenizer)), key=lambda pair: str(pair[0])):
        array = np.asarray(value.get_value())
        digest.update(repr((path, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return "tokenizer-" + digest.hexdigest()[:32]


def encoding(source: Source, tokenizer: ImageTokenizer, image_size: int, crops: int, shard_examples: int) -> Encoding:
    """Return all that the codes depend on; raise UserError for a wrong image size or number of crops."""
    factor = tokenizer.downsample
    problems = []
    if image_size < 1 or image_size % factor:
        problems.append(f"image_size: expected a multiple of {factor}, the tokenizer's downsample, got {image_size}")
    if crops < 1 or (crops > 1 and not isinstance(source, EpochSource)):
        expected = "at least 1" if crops < 1 else "1, since the source shows the same image in each epoch"
        problems.append(f"crops: expected {expected}, got {crops}")
    if shard_examples < 1:
        problems.append(f"shard_examples: expected at least 1, got {shard_examples}")
    if problems:
        raise UserError("encode: " + "; ".join(problems))
    return Encoding(
        tokenizer=fingerprint(tokenizer),
        source=source.fingerprint(),
        examples=len(source),
        crops=crops,
        image_size=image_size,
        grid=(image_size // factor, image_size // factor),
        codebook_size=tokenizer.codebook_size,
        shard_examples=shard_examples,
    )


class Encoder:
    """An image tokenizer on all devices of this process, compiled once for batches of ``batch_size`` images.

    Threads prepare the next batch while the devices encode one. Processes do not wait for each other.
    """

    def __init__(self, tokenizer: ImageTokenizer, source: Source, encoding: Encoding, batch_size: int):
        self._layout = Layout(make_mesh(Mesh(), jax.local_devices()), Rules())
        size = encoding.image_size
        spec = {"pixels": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)}
        self._sharding = self._layout.batch_shardings(spec)["pixels"]
        graph, state = nnx.split(tokenizer)
        self._state = jax.device_put(jax.device_get(state), self._layout.replicated)
        self._encode = self._layout.jit(lambda state, pixels: nnx.merge(graph, state).encode(to_float(pixels)))
        self._source, self._encoding, self._batch_size = source, encoding, batch_size
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def compiles(self) -> int:
        """Return the number of times that the tokenizer was compiled."""
        return self._encode.compiles()

    def records(self, examples: range) -> Iterator[bytes]:
        """Yield the records of a shard, in order."""
        crops = self._encoding.crops
        shown = self._encoded([(index, crop) for index in examples for crop in range(crops)])
        while images := list(islice(shown, crops)):
            codes = np.stack([one for _, one in images])  # [crops h w]
            yield encode_codes(images[0][0]["key"], codes, [example["captions"] for example, _ in images])

    def _encoded(self, rows: Sequence[tuple[int, int]]) -> Iterator[tuple[Example, np.ndarray]]:
        """Yield each (example, crop) with its codes [h w]; the last batch is padded with its last image."""
        size = self._batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        ahead: list[list[Future[Example]]] = [self._prepare(batch) for batch in batches[:1]]
        waiting: tuple[list[Example], Array] | None = None
        for number in range(len(batches)):
            ahead += [self._prepare(batch) for batch in batches[number + 1 : number + 2]]
            examples = [one.result() for one in ahead.pop(0)]
            pixels = np.stack([one["image"] for one in examples])
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), axis=0)])
            codes = self._encode(self._state, jax.device_put(pixels, self._sharding))  # [B h w]
            if waiting is not None:
                yield from zip(waiting[0], np.asarray(waiting[1]), strict=False)
            waiting = examples, codes
        if waiting is not None:
            yield from zip(waiting[0], np.asarray(waiting[1]), strict=False)

    def _prepare(self, rows: Sequence[tuple[int, int]]) -> list[Future[Example]]:
        return [self._pool.submit(self._example, index, crop) for index, crop in rows]

    def _example(self, index: int, crop: int) -> Example:
        source, size = self._source, self._encoding.image_size
        example = source.example(index, crop) if isinstance(source, EpochSource) else source[index]
        if "image" not in example:
            raise UserError("encode: expected a source of images, got a source of codes")
        image = example["image"]
        image = image if image.shape[:2] == (size, size) else centre_square(image, size)
        return Example(key=example["key"], image=image, captions=example["captions"])


def encode(encoder: Encoder, folder: CodeFolder, shards: Sequence[int], say: Callable[[str], None]) -> None:
    """Write the shards of the given numbers in order; ``say`` is called with each line of progress."""
    total = sum(len(folder.rows(number)) for number in shards)
    done, began, reported = 0, time.monotonic(), time.monotonic()
    for number in shards:
        folder.write(number, encoder.records(folder.rows(number)))
        done += len(folder.rows(number))
        if time.monotonic() - reported > SAY_EVERY or number == shards[-1]:
            reported = time.monotonic()
            say(f"{done} of {total} images, {done / max(reported - began, 1e-9):.0f} a second")
