"""Examples per second on one core: captioned images from tars, compared with the package webdataset with PIL.

    DALLE_JAX_DATA=DIR python benchmarks/data_throughput.py [--cores 0] [--rounds 9] [--peer-python PATH]

DIR holds ``emoji/*.tar`` as img2dataset writes them. One call of either side is 8 batches of 64 images, read,
decoded, blended over white, cropped at random and resized to 64 px. Two cases that the peer lacks are compared with its
images from tars: the same images as array_record files, and precomputed codes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from codes_throughput import loaders
from harness import HERE, PEER_PYTHON, Case, Side, compare, cpu_model
from peer_sizes import BATCH, BATCHES, SIZE

EXAMPLES = BATCH * BATCHES


def batches_of(source, workers=0):
    """Return a function that loads the next batches of a source of records."""
    from dalle_jax.data.examples.held_out import HeldOut
    from dalle_jax.data.examples.images import Images
    from dalle_jax.runs import Data

    data = Data(
        source=source,
        evaluation=HeldOut(count=BATCH),
        batch_size=BATCH,
        images=Images(size=SIZE),
        workers=workers,
    )
    loader = data.open()
    step = 0

    def call():
        nonlocal step
        for _ in range(BATCHES):
            batch = loader.batch(step)
            assert np.stack(batch["image"]).shape == (BATCH, SIZE, SIZE, 3)
            assert len(batch["caption"]) == BATCH
            step += 1

    return call


def tars(workers=0):
    from dalle_jax.data.sources.webdataset import WebDataset

    folder = Path(os.environ["DALLE_JAX_DATA"]) / "emoji"
    return batches_of(WebDataset((str(folder),), index_folder=tempfile.mkdtemp(prefix="dalle_jax-index-")), workers)


def array_records():
    """Write the emoji tars as an array_record file, and return the case that reads its batches."""
    from dalle_jax.data.sources import array_record
    from dalle_jax.data.sources.webdataset import WebDataset

    folder = Path(tempfile.mkdtemp(prefix="dalle_jax-records-"))
    tars = Path(os.environ["DALLE_JAX_DATA"]) / "emoji"
    records = WebDataset((str(tars),), index_folder=str(folder / "indexes")).open()
    array_record.write(folder / "00000.array_record", (records[index] for index in range(len(records))))
    return batches_of(array_record.ArrayRecord((str(folder),)))


def codes():
    batch, step = loaders(SIZE, Path(tempfile.mkdtemp(prefix="dalle_jax-codes-")))["codes"], 0

    def call():
        nonlocal step
        for _ in range(BATCHES):
            assert len(batch(step)["caption"]) == BATCH
            step += 1

    return call


CASES = {"tars": tars, "array_record": array_records, "codes": codes}
CASES |= {f"tars, {workers} workers": partial(tars, workers) for workers in (1, 2, 4)}
CASES_TO_COMPARE = [
    Case("tars", "images out of tars", 1.0, 1.5, unit="examples", units=(EXAMPLES, EXAMPLES), calls=(2, 2)),
    Case("array_record", "array_record", 1.0, 1.5, "tars", (2, 2), (EXAMPLES, EXAMPLES), "examples"),
    Case("codes", "precomputed codes", 20.0, 30.0, "tars", (40, 2), (EXAMPLES, EXAMPLES), "examples"),
]


def row(result: dict) -> str:
    """Format a table row: examples per second and core, and the peer's time over ours."""
    ours, peer = (1 / result["seconds_per_unit"][name]["median"] for name in ("ours", "peer"))
    ratio = result["ratio"]
    return (
        f"| {result['title']} | {ours:,.0f} /s | {peer:,.0f} /s "
        f"| **{ratio['median']:.2f}** ({ratio['min']:.2f}..{ratio['max']:.2f}) "
        f"| {result['cpu_ratio']['median']:.2f} | {result['least']:g} |"
    )


def compare_workers(cores: str, rounds: int) -> None:
    """Measure our examples per second for each number of workers in turn; print median and maximum of the rounds."""
    cases = [name for name in CASES if name.startswith("tars")]
    sides = {name: Side(sys.executable, Path(__file__).resolve(), cores) for name in cases}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for name, side in sides.items():
        side.ask(do="build", case=name)
    for _ in range(rounds):
        for name, side in sides.items():
            rates[name].append(EXAMPLES / side.ask(do="run", calls=1)["seconds"])
    for name, side in sides.items():
        side.close()
        print(f"{name}, cores {cores}: {np.median(rates[name]):,.0f} /s (most {max(rates[name]):,.0f})")


def main() -> None:
    """Measure both readers of each case, in turn, and write the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cores", default="0")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", action="store_true", help="our side alone with 0, 1, 2 and 4 data workers")
    parser.add_argument("--only", action="append", help="the name of a case; may be given more than once")
    parser.add_argument("--peer-python", default=os.environ.get("DALLE_JAX_PEER_PYTHON", str(PEER_PYTHON)))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if "DALLE_JAX_DATA" not in os.environ:
        raise SystemExit("expected DALLE_JAX_DATA, a folder with emoji/*.tar in it, got none")
    if options.workers:
        compare_workers(options.cores, options.rounds)
        return
    ours = Side(sys.executable, Path(__file__).resolve(), options.cores)
    peer = Side(options.peer_python, HERE / "peer_data_throughput.py", options.cores)
    try:
        machine = {"cpu": cpu_model(), "ours": ours.ask(do="about"), "peer": peer.ask(do="about")}
        chosen = [case for case in CASES_TO_COMPARE if not options.only or case.name in options.only]
        results = [compare(case, ours, peer, rounds=case.rounds or options.rounds) for case in chosen]
    finally:
        ours.close()
        peer.close()
    options.results.mkdir(parents=True, exist_ok=True)
    report = {"benchmark": "data_throughput", "date": time.strftime("%Y-%m-%d"), "machine": machine, "results": results}
    (options.results / "data_throughput.json").write_text(json.dumps(report, indent=2) + "\n")
    print("| case | ours | webdataset | ratio: median (min..max) | of CPU seconds | target |\n" + "|---" * 6 + "|")
    print("\n".join(map(row, results)))


if __name__ == "__main__":
    main()
