"""Examples per second on the same core: captioned pictures out of tars, beside the package webdataset with PIL.

    DALLE_JAX_DATA=DIR python benchmarks/data_throughput.py [--cores 0] [--rounds 9] [--peer-python PATH]

DIR holds ``emoji/*.tar`` as img2dataset writes them. One call of either side is 8 batches of 64 pictures, read,
decoded, laid over white, cropped at random and resized to 64 px. A case that the peer lacks (codes written ahead) is
set beside the peer's pictures.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import HERE, PEER_PYTHON, Case, Side, compare, cpu_model
from peer_sizes import BATCH, BATCHES, SIZE

EXAMPLES = BATCH * BATCHES


def batches_of(source):
    """A call that takes the next batches of a source of records."""
    from dalle_jax.data.held_out import HeldOut
    from dalle_jax.data.pictures import Pictures
    from dalle_jax.runs import Data

    loader = Data(source, HeldOut(count=BATCH), BATCH, pictures=Pictures(size=SIZE)).open()
    step = 0

    def call():
        nonlocal step
        for _ in range(BATCHES):
            batch = loader.batch(step)
            assert np.stack(batch["image"]).shape == (BATCH, SIZE, SIZE, 3)
            assert len(batch["caption"]) == BATCH
            step += 1

    return call


def tars():
    from dalle_jax.data.webdataset import WebDataset

    folder = Path(os.environ["DALLE_JAX_DATA"]) / "emoji"
    return batches_of(WebDataset((str(folder),), index_folder=tempfile.mkdtemp(prefix="dalle_jax-index-")))


CASES = {"tars": tars}
CASES_TO_COMPARE = [
    Case("tars", "pictures out of tars", 1.0, 1.5, unit="examples", units=(EXAMPLES, EXAMPLES), calls=(2, 2))
]


def row(result: dict) -> str:
    """A line of the table: examples per second and core, and the peer's time over ours."""
    ours, peer = (1 / result["seconds_per_unit"][name]["median"] for name in ("ours", "peer"))
    ratio = result["ratio"]
    return (
        f"| {result['title']} | {ours:,.0f} /s | {peer:,.0f} /s "
        f"| **{ratio['median']:.2f}** ({ratio['min']:.2f}..{ratio['max']:.2f}) "
        f"| {result['cpu_ratio']['median']:.2f} | {result['least']:g} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cores", default="0")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", help="the name of a case; may be given more than once")
    parser.add_argument("--peer-python", default=os.environ.get("DALLE_JAX_PEER_PYTHON", str(PEER_PYTHON)))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    if "DALLE_JAX_DATA" not in os.environ:
        raise SystemExit("expected DALLE_JAX_DATA, a folder with emoji/*.tar in it, got none")
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
    print("| case | ours | webdataset | ratio: median (min..max) | of CPU seconds | asked |\n" + "|---" * 6 + "|")
    print("\n".join(map(row, results)))


if __name__ == "__main__":
    main()
