"""Readers of the package, each with small valid files to mutate."""

import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.images import DroppedRecord, Images
from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.formats.array_record_layout import decode_record, encode_record
from dalle_jax.data.precomputed.conditions import read_npy
from dalle_jax.data.precomputed.manifest import read_manifest
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.parquet import Parquet
from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.statistics_file import read_statistics, write_statistics
from dalle_jax.images.decode import decode
from dalle_jax.images.editable import load_editable
from dalle_jax.images.header import BadImage, Limits, read_header
from dalle_jax.pipelines.bulk.prompt_files import PromptFiles
from dalle_jax.pipelines.load.models import read_model_file
from dalle_jax.pipelines.request import RequestOptions
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.safetensors_files import write_safetensors
from dalle_jax.pretrained.publisher import read_json
from dalle_jax.runs import TrainRun
from dalle_jax.text.vocabulary_files import read_bpe_files, read_merges, read_vocabulary
from tests.pretrained.weight_files import Raw, encoded, flax_array, flax_map, pickled, tensor, torch_old, torch_zip

ROOT = Path(__file__).parents[2]
EXPECTED = (UserError, BadRecord, BadImage, DroppedRecord)
"""Errors that a reader may raise for a file, and that a command turns into one line, besides ``USER_ERRNOS``."""
NUMBERS = np.arange(24, dtype=np.float32)
PIXEL_BYTES = 16
"""Bytes of memory that decoding takes for a pixel, in its own mode, with transparency and in RGB."""


@dataclass(frozen=True)
class Target:
    """A reader.

    - ``name``: the name of the reader, and ``file`` that of the file which it reads.
    - ``seeds``: contents to mutate.
    - ``write(path, content)`` makes the file of the mutated content, with right checksums if it has any.
    - ``read(path)`` reads all of it.
    - ``memory(content)``: bytes of memory that the content justifies besides three times its size.
    """

    name: str
    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    write: Callable[[Path, bytes], object] = Path.write_bytes
    memory: Callable[[bytes], int] = lambda content: 0


def all_targets(folder: Path) -> list[Target]:
    """Return all readers except that of checkpoints; ``folder`` is for the seeds' files."""
    return [*_configs(), *_images(folder), *_weights(folder), *_prompts(folder), *_metadata(folder), *_others(folder)]


def _configs() -> Iterator[Target]:
    texts = tuple((ROOT / "configs/runs" / name).read_bytes() for name in ("dalle_mini.gin", "dvae.gin"))
    yield Target("config", "a.gin", texts, lambda path: load(path, TrainRun))
    model = b"model = @DalleConfig\nmodel.text_vocab = 32\nmodel.text_length = 6\nmodel.codebook_size = 16\n"
    model += b"model.grid = (4, 4)\nmodel.width = 16\nmodel.depth = 2\nmodel.heads = 2\n"
    yield Target("model.gin", "model.gin", (model,), lambda path: read_model_file(path.parent))


def _images(folder: Path) -> Iterator[Target]:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 4), np.uint8)
    for kind, mode, options in (
        ("JPEG", "RGB", {}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGB", {}),
        ("GIF", "P", {"comment": b"x" * 300}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "tiff_deflate"}),
    ):
        stream = io.BytesIO()
        grey = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
        image = grey if mode == "I;16" else Image.fromarray(pixels[..., :3]).convert(mode)
        image.save(stream, kind, **options)
        write = _write_png if kind == "PNG" else Path.write_bytes
        name = f"{kind} {mode}"
        yield Target(name, "a.bin", (stream.getvalue(),), _read_image, write, _pixel_memory)


def _read_image(path: Path) -> None:
    try:
        decode(path.read_bytes(), min_side=8)
    finally:
        load_editable(path)


def _pixel_memory(content: bytes) -> int:
    try:
        header = read_header(content, Limits())
    except BadImage:
        return 0
    return PIXEL_BYTES * header.width * header.height


def _write_png(path: Path, content: bytes) -> None:
    """Write a PNG with right checksums, so that not every mutation ends at one."""
    out, at = content[:8], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    path.write_bytes(out + content[at:])


def _read_weights(path: Path) -> None:
    for array in read_tensors(path).values():
        array.sum()


def _weights(folder: Path) -> Iterator[Target]:
    root = {"a": tensor("0", "float32", 24, (4, 6), (6, 1)), "n": {"b": 1, "c": ["x", 2.5]}}
    old = {"a": tensor("0", "float32", 24, (4, 6), (6, 1), old=True)}
    hostile = tuple(
        pickled(Raw(module, name, f"touch {folder / 'canary'}"))
        for module, name in (("os", "system"), ("builtins", "eval"))
    )
    storages = {"0": NUMBERS.tobytes()}
    whole = torch_zip(folder / "a.pt", root, storages).read_bytes()
    yield Target("torch zip", "a.pt", (whole,), _read_weights)

    def write_zip(path: Path, body: bytes) -> None:
        torch_zip(path, None, storages, body=body)

    pickles = (pickled(root), *hostile, b"\x80\x02}" + encoded("x") + b"(K\x01K\x02K\x03t" + b"s.")
    yield Target("torch pickle", "a.pt", pickles, _read_weights, write_zip)
    legacy = torch_old(folder / "old.pt", old, {"0": NUMBERS}).read_bytes()
    yield Target("torch legacy", "old.pt", (legacy,), _read_weights)
    write_safetensors(folder / "a.safetensors", {"a": NUMBERS, "b": NUMBERS[:6]}, {"x": "y"})
    yield Target("safetensors", "a.safetensors", ((folder / "a.safetensors").read_bytes(),), _read_weights)
    nested = flax_map({"a": flax_array(NUMBERS), "b": flax_map({"c": flax_array(NUMBERS)})})
    yield Target("msgpack", "a.msgpack", (nested,), _read_weights)
    np.savez(folder / "a.npz", a=NUMBERS, b=NUMBERS.reshape(4, 6))
    np.savez_compressed(folder / "b.npz", a=NUMBERS)
    zips = tuple((folder / name).read_bytes() for name in ("a.npz", "b.npz"))
    yield Target("npz", "a.npz", zips, _read_weights)
    features = FeatureSet("features", 4, (8, 8))
    features.update(FeatureRows(np.arange(6), NUMBERS.reshape(6, 4)))
    write_statistics(folder / "s.npz", features, "data")
    np.savez(folder / "t.npz", mu=NUMBERS[:4], sigma=NUMBERS[:16].reshape(4, 4))
    statistics = tuple((folder / name).read_bytes() for name in ("s.npz", "t.npz"))
    yield Target("statistics", "s.npz", statistics, lambda path: read_statistics(path, "features", 4, "data"))
    np.save(folder / "a.npy", NUMBERS.reshape(4, 6))
    array = (folder / "a.npy").read_bytes()
    yield Target("npz member", "a.npz", (array,), _read_weights, _write_npz)
    yield Target("npy", "a.npy", (array,), read_npy)
    index = json.dumps({"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}).encode()
    shard = (folder / "a.safetensors").read_bytes()

    def write_index(path: Path, content: bytes) -> None:
        (path.parent / "a.safetensors").write_bytes(shard)
        path.write_bytes(content)

    yield Target("index", "model.safetensors.index.json", (index,), _read_weights, write_index)
    yield Target("config.json", "config.json", (b'{"width": 8, "layers": [1, 2], "name": "x"}',), read_json)


def _write_npz(path: Path, member: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member)


def _survey(path: Path) -> None:
    files = PromptFiles([str(path)], RequestOptions())
    files.survey()
    list(files.requests(lambda _: True))


def _parquet(folder: Path, **columns: object) -> bytes:
    path = folder / "seed.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path.read_bytes()


def _prompts(folder: Path) -> Iterator[Target]:
    rows = b'{"prompt": "a red circle", "seed": 3}\n{"prompt": "b", "guidance": 2.5, "candidates": 4}\n'
    yield Target("prompts txt", "p.txt", ("a red circle\ncafé\n".encode(), rows), _survey)
    yield Target("prompts jsonl", "p.jsonl", (rows,), _survey)
    table = _parquet(
        folder, prompt=["a", "b", "c"], seed=[1, 2, 3], taken=pyarrow.array([1, 2, 3], pyarrow.timestamp("us"))
    )
    yield Target("prompts parquet", "p.parquet", (table,), _survey)


def _read_records(records: Records) -> None:
    images = Images(size=8, filters=Filters(min_similarity=0.1, missing="keep"), bad_share=1.0)
    for number in range(min(len(records), 20)):
        try:
            images.decode(images.check_record(records[number]))
        except EXPECTED:
            continue


def _metadata(folder: Path) -> Iterator[Target]:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(stream, "PNG")
    png = stream.getvalue()

    def beside(path: Path, content: bytes) -> None:
        for number in range(3):
            (path.parent / f"{number}.png").write_bytes(png)
            (path.parent / f"{number}.txt").write_bytes(b"a caption")
        path.write_bytes(content)

    def read_folder(path: Path) -> None:
        _read_records(Folder(str(path.parent)).open())

    lines = b'{"file_name": "0.png", "text": "a", "similarity": 0.5}\n{"file_name": "1.png", "text": ["b", "c"]}\n'
    table = b'file_name,text,width\n0.png,"a, b",1\n1.png,c,2\n'
    fields = b'{"caption": "a", "similarity": 0.25, "width": 16, "nested": {"a": [1, 2, null]}}'
    yield Target("metadata.jsonl", "metadata.jsonl", (lines,), read_folder, beside)
    yield Target("metadata.csv", "metadata.csv", (table,), read_folder, beside)
    yield Target("json beside", "0.json", (fields,), read_folder, beside)
    yield Target("text beside", "0.txt", ("one\ncafé\n".encode(),), read_folder, beside)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in (("0.png", png), ("0.txt", b"a"), ("0.json", fields), ("1.png", png), ("1.txt", b"b")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    yield Target("tar", "a.tar", (archive.getvalue(),), lambda path: _read_records(WebDataset((str(path),)).open()))
    rows = _parquet(
        folder, image=[png] * 3, caption=["a", "b", "c"], when=pyarrow.array([1, 2, 3], pyarrow.timestamp("ns"))
    )
    yield Target("parquet", "a.parquet", (rows,), lambda path: _read_records(Parquet((str(path),)).open()))
    record = encode_record(png, ["a"], {"similarity": 0.5, "list": [1, {"a": None}]})
    yield Target("record", "a.msgpack", (record,), lambda path: decode_record("k", path.read_bytes(), 1 << 20))


def _others(folder: Path) -> Iterator[Target]:
    encoding = {"tokenizer": "t", "source": "s", "examples": 3, "crops": 1, "image_size": 8, "grid": [2, 2]}
    encoding |= {"codebook_size": 4, "shard_examples": 2}
    shard = {"file": "codes-00000-of-00002.array_record", "examples": 2, "bytes": 5, "sha256": "0"}
    manifest = {"format": "dalle_jax codes", "version": 1, "encoding": encoding, "shards": [shard]}
    manifest |= {"image_tokenizer": "x", "config": "y"}
    content = json.dumps(manifest).encode()
    yield Target("manifest", "manifest.json", (content,), lambda path: read_manifest(path.parent))
    vocabulary = json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}).encode()
    yield Target("tokenizer.json", "tokenizer.json", (vocabulary,), _read_vocabulary)


def _read_vocabulary(path: Path) -> None:
    files = read_bpe_files(str(path), "X")
    read_vocabulary(files["vocab.json"], "X", ())
    read_merges(files["merges.txt"])


def chosen(targets: list[Target], seed: int, number: int) -> tuple[Target, random.Random]:
    """Return the target of an input, and its source of randomness."""
    rng = random.Random(f"{seed} {number}")
    return rng.choice(targets), rng
