"""Encode a data set's images to codes of an image tokenizer or to vectors of a CLIP, on all devices of all hosts."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol, cast, runtime_checkable

import jax
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.code_record import encode_codes
from dalle_jax.data.precomputed.manifest import AnyEncoding, Encoding
from dalle_jax.data.precomputed.writer import EncodedFolder
from dalle_jax.data.source import EpochSource, Example, Source
from dalle_jax.images.pixels import centre_square, to_float
from dalle_jax.layers.conv_blocks import Conv, ConvTranspose
from dalle_jax.layers.linear import Linear
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout, platform

SAY_EVERY = 10.0
"""Seconds between two lines of progress."""


def fingerprint(network: nnx.Module | ImageTokenizer, name: str = "tokenizer") -> str:
    """Hash the names and values of all parameters; networks with the same hash give the same outputs."""
    digest = hashlib.sha256()
    for path, value in sorted(nnx.to_flat_state(nnx.state(network)), key=lambda pair: str(pair[0])):
        array = np.asarray(value.get_value())
        digest.update(repr((path, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{name}-" + digest.hexdigest()[:32]


def encoding(source: Source, tokenizer: ImageTokenizer, image_size: int, crops: int, shard_examples: int) -> Encoding:
    """Return all that the codes depend on; raise UserError for a wrong image size or number of crops."""
    factor = tokenizer.downsample
    problems = crop_problems(source, crops, shard_examples)
    if image_size < 1 or image_size % factor:
        wrong = f"image_size: expected a multiple of {factor}, the tokenizer's downsample, got {image_size}"
        problems.insert(0, wrong)
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
        platform=platform(),
        precision=product_dtypes(cast(nnx.Module, tokenizer)),
    )


def product_dtypes(network: nnx.Module) -> str:
    """Return the dtypes in which a network's layers multiply, such as "float32" or "bfloat16, float32"."""
    layers = (node for _, node in nnx.iter_graph(network) if isinstance(node, Linear | Conv | ConvTranspose))
    return ", ".join(sorted({str(layer.dtype) for layer in layers}))


def crop_problems(source: Source, crops: int, shard_examples: int) -> list[str]:
    """Return what is wrong with the number of crops and of examples in a shard."""
    problems = []
    if crops < 1 or (crops > 1 and not isinstance(source, EpochSource)):
        expected = "at least 1" if crops < 1 else "1, since the source shows the same image in each epoch"
        problems.append(f"crops: expected {expected}, got {crops}")
    if shard_examples < 1:
        problems.append(f"shard_examples: expected at least 1, got {shard_examples}")
    return problems


@runtime_checkable
class Payload(Protocol):
    """The network of an encoding, and the records that are written of its outputs."""

    @property
    def network(self) -> nnx.Module:
        """The network that ``encode`` calls."""
        ...

    def encode(self, network: nnx.Module, pixels: Float[Array, "B H W 3"]) -> Array:
        """Compute an output for each image with values in [0, 1]; compiled."""
        ...

    def records(self, images: Iterator[list[tuple[Example, np.ndarray]]]) -> Iterator[bytes]:
        """Yield the record of each image, from the examples and outputs of its crops."""
        ...


class CodesPayload:
    """Codes of an image tokenizer. Implements ``Payload``."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        self.network = cast(nnx.Module, tokenizer)

    def encode(self, network: nnx.Module, pixels: Float[Array, "B H W 3"]) -> Array:
        """Compute the codes [B h w]."""
        return cast(ImageTokenizer, network).encode(pixels)

    def records(self, images: Iterator[list[tuple[Example, np.ndarray]]]) -> Iterator[bytes]:
        """Yield the record of each image (data/precomputed/code_record.py)."""
        for crops in images:
            codes = np.stack([one for _, one in crops])  # [crops h w]
            yield encode_codes(crops[0][0]["key"], codes, [example["captions"] for example, _ in crops])


class Encoder:
    """The network of a payload on the devices of a layout, compiled once for batches of ``batch_size`` images.

    Threads prepare the next batch while the devices encode one. Processes do not wait for each other, so the devices
    of the layout belong to this process.
    """

    def __init__(self, payload: Payload, source: Source, encoding: AnyEncoding, batch_size: int, layout: Layout):
        self._layout = layout
        size = encoding.image_size
        spec = {"pixels": jax.ShapeDtypeStruct((batch_size, size, size, 3), np.uint8)}
        self._sharding = self._layout.batch_shardings(spec)["pixels"]
        graph, state = nnx.split(payload.network)
        self._state = jax.device_put(state, self._layout.state_shardings(state))
        self._encode = self._layout.jit(lambda state, pixels: payload.encode(nnx.merge(graph, state), to_float(pixels)))
        self._payload = payload
        self._source, self._encoding, self._batch_size = source, encoding, batch_size
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def compiles(self) -> int:
        """Return the number of times that the network was compiled."""
        return self._encode.compiles()

    def records(self, examples: range) -> Iterator[bytes]:
        """Yield the records of a shard, in order."""
        crops = self._encoding.crops
        shown = self._encoded([(index, crop) for index in examples for crop in range(crops)])
        return self._payload.records(iter(lambda: list(islice(shown, crops)), []))

    def _encoded(self, rows: Sequence[tuple[int, int]]) -> Iterator[tuple[Example, np.ndarray]]:
        """Yield each (example, crop) with its output; the last batch is padded with its last image."""
        size = self._batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        ahead: list[list[Future[Example]]] = [self._prepare(batch) for batch in batches[:1]]
        waiting: tuple[list[Example], Array] | None = None
        for number in range(len(batches)):
            ahead += [self._prepare(batch) for batch in batches[number + 1 : number + 2]]
            examples = [one.result() for one in ahead.pop(0)]
            pixels = np.stack([one["image"] for one in examples])
            pixels = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), axis=0)])
            outputs = self._encode(self._state, jax.device_put(pixels, self._sharding))
            if waiting is not None:
                yield from zip(waiting[0], np.asarray(waiting[1]), strict=False)
            waiting = examples, outputs
        if waiting is not None:
            yield from zip(waiting[0], np.asarray(waiting[1]), strict=False)

    def _prepare(self, rows: Sequence[tuple[int, int]]) -> list[Future[Example]]:
        return [self._pool.submit(self._example, index, crop) for index, crop in rows]

    def _example(self, index: int, crop: int) -> Example:
        source, size = self._source, self._encoding.image_size
        example = source.example(index, crop) if isinstance(source, EpochSource) else source[index]
        if "image" not in example:
            raise UserError("encode: expected a source of images, got a source of codes or embeddings")
        image = example["image"]
        image = image if image.shape[:2] == (size, size) else centre_square(image, size)
        return Example(key=example["key"], image=image, captions=example["captions"])


def encode(encoder: Encoder, folder: EncodedFolder, shards: Sequence[int], say: Callable[[str], None]) -> None:
    """Write the shards of the given numbers in order; ``say`` is called with each line of progress."""
    total = sum(len(folder.rows(number)) for number in shards)
    done, began, reported = 0, time.monotonic(), time.monotonic()
    for number in shards:
        folder.write(number, encoder.records(folder.rows(number)))
        done += len(folder.rows(number))
        if time.monotonic() - reported > SAY_EVERY or number == shards[-1]:
            reported = time.monotonic()
            say(f"{done} of {total} images, {done / max(reported - began, 1e-9):.0f} a second")
