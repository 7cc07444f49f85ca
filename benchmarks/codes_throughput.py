"""Examples per second from precomputed codes, compared with decoding the same images.

    DALLE_JAX_DATA=DIR python benchmarks/codes_throughput.py [--size 64] [--rounds 9] [--core 0]

DIR holds ``emoji/*.tar`` as img2dataset writes them. Both sides load shuffled batches of 64 with the same
loader, in turn, on one core and in one thread. The tokenizer is not trained, since the speed does not depend on the
values of codes.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BATCH = 64
FACTOR = 8


def loaders(size: int, folder: Path) -> dict[str, Callable[[int], dict]]:
    """Return functions that make the batch of a step, from images and from their codes."""
    from flax import nnx

    from dalle_jax.data.examples.held_out import HeldOut
    from dalle_jax.data.examples.images import Images
    from dalle_jax.data.loader import Loader
    from dalle_jax.data.open_data import SourceOpener
    from dalle_jax.data.precomputed.writer import EncodedFolder
    from dalle_jax.data.sources.precomputed import Codes
    from dalle_jax.data.sources.webdataset import WebDataset
    from dalle_jax.folder_lock import locked
    from dalle_jax.models.vqvae import VqvaeConfig
    from dalle_jax.pipelines.compiled_network import local_layout
    from dalle_jax.pipelines.encode import CodesPayload, Encoder, encode, encoding

    tars = WebDataset((str(Path(os.environ["DALLE_JAX_DATA"]) / "emoji"),), index_folder=str(folder / "indexes"))
    opener = SourceOpener(Images(size=size), 0, folder, print)
    source, _ = opener.open(tars, "source", HeldOut(count=BATCH))
    config = VqvaeConfig(downsample=FACTOR, width=8, blocks=0, codebook_size=64, code_width=8, stem="patch")
    tokenizer = config.build(nnx.Rngs(0))
    what = encoding(source, tokenizer, size, 1, 1024)
    codes = EncodedFolder(folder / "codes", what, 0, 1)
    with locked(folder / "codes", "encode"):
        codes.begin()
        encode(Encoder(CodesPayload(tokenizer), source, what, BATCH, local_layout()), codes, codes.missing(), print)
        codes.finish("not kept", "")
    written = Codes(str(folder / "codes")).open()
    return {"images": Loader(source, None, BATCH, 0).batch, "codes": Loader(written, None, BATCH, 0).batch}


def seconds(batch: Callable[[int], dict], steps: range) -> float:
    """Return CPU seconds per example."""
    began = time.process_time()
    for step in steps:
        assert len(batch(step)["caption"]) == BATCH
    return (time.process_time() - began) / (len(steps) * BATCH)


def main() -> None:
    """Measure both ways of reading, in turn, and print the examples per second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    if "DALLE_JAX_DATA" not in os.environ:
        raise SystemExit("expected DALLE_JAX_DATA, a folder with emoji/*.tar in it, got none")
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory(prefix="dalle_jax-codes-") as folder:
        sides = loaders(options.size, Path(folder))
        os.sched_setaffinity(0, {options.core})
        found: dict[str, list[float]] = {"images": [], "codes": []}
        for number in range(options.rounds + 1):
            for name, count in (("images", 2), ("codes", 40)):
                one = seconds(sides[name], range(number * count, (number + 1) * count))
                if number:  # the first round warms up
                    found[name].append(one)
    ratios = [slow / fast for slow, fast in zip(found["images"], found["codes"], strict=True)]
    report = {
        "machine": platform.processor() or platform.machine(),
        "size": options.size,
        "codes": (options.size // FACTOR) ** 2,
        "images_per_cpu_second": round(1 / statistics.median(found["images"])),
        "codes_per_cpu_second": round(1 / statistics.median(found["codes"])),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
