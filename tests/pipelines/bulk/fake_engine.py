"""An engine without a model, whose images depend on prompt, seed and candidate, and readers of its shards."""

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image

from dalle_jax.pipelines.bulk.device_engine import DrawnPrompt
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.ranker import best_candidates


class FakeEngine:
    """Implements ``BulkEngine``; ``drawn`` has the numbers of the prompts that it drew."""

    def __init__(self, scored: bool = True) -> None:
        self.scored, self.drawn = scored, []

    def draw(self, requests: Iterator[NumberedRequest]) -> Iterator[DrawnPrompt]:
        for number, request in requests:
            options = request.options
            rng = np.random.default_rng((zlib.crc32(str(request.prompt).encode()), options.seed))
            scores = rng.random(options.candidates, np.float32)
            chosen = best_candidates(scores[None], options.kept)[0] if self.scored else np.arange(options.kept)
            images = rng.integers(0, 256, (options.candidates, 4, 6, 3), np.uint8)
            self.drawn.append(number)
            yield DrawnPrompt(number, request, images[chosen], chosen, scores if self.scored else None)

    def flops_per_image(self) -> float:
        return 1e9

    def tokenizers(self) -> dict:
        return {}


def tar_files(path: Path) -> dict[str, bytes]:
    """Return the content of each file of a tar, in order; a name that comes twice fails."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        names = [one.name for one in members]
        assert len(set(names)) == len(names)
        return {one.name: tar.extractfile(one).read() for one in members}


def kept_images(out: Path) -> list[tuple[dict, np.ndarray]]:
    """Return the record and the pixels of each image of all shards, in order."""
    found = []
    for tar in sorted(out.glob("*.tar")):
        files = tar_files(tar)
        for name in files:
            if name.endswith(".json"):
                record = json.loads(files[name])
                assert record["key"] == name.removesuffix(".json")
                assert files[name.replace("json", "txt")].decode() == record["caption"]
                image = Image.open(io.BytesIO(files[name.replace("json", "png")]))
                found.append((record, np.asarray(image)))
    return found


def scores(out: Path) -> list[dict]:
    """Return the row of each candidate of all shards, in order."""
    return [row for file in sorted(out.glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]


def shard_files(out: Path) -> dict[str, bytes]:
    """Return the content of all files but the lock and the grid."""
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("grid.png", ".lock")}
