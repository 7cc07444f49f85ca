"""Inpainting and outpainting of scenes by a pixel decoder, judged from the pixels by the scenes' reader.

    python benchmarks/pixel_inpainting.py --decoder runs/demo-unclip/inpainting-decoder --prior runs/demo-unclip/prior

The cases are those of ``demo-unclip`` (evaluate/suites/evaluate_inpainting.py). It prints the measures as JSON, and
with ``--out`` writes the first cases of each kind as a grid.
"""

import argparse
import json
import time
from pathlib import Path

from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.evaluate.suites.evaluate_inpainting import EvaluateInpainting, evaluate_inpainting
from dalle_jax.images.contact import contact_cell
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.load.models import read_model_file
from dalle_jax.pipelines.load.pixel_unclip_pipeline import load_pixel_unclip

CELL = 128
"""The side in pixels of an image in a grid."""


def main() -> None:
    """Fill, judge, and print the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--cases", type=int, default=40, help="cases of each level and kind")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="the folder of the grids")
    args = parser.parse_args()
    needs = {"decoder": str(args.decoder), "clip": read_model_file(args.decoder).needs["clip"]}
    needs |= {} if args.prior is None else {"prior": str(args.prior)}
    pipeline = load_pixel_unclip(needs, steps=args.steps)
    config = EvaluateInpainting(cases=args.cases, candidates=args.candidates, guidance=args.guidance)
    began = time.monotonic()
    found = evaluate_inpainting(pipeline, config, print)
    seconds = round(time.monotonic() - began)
    values = {
        f"{one.name}.{measure.key}": f"{measure.value.right}/{measure.value.count}"
        if isinstance(measure.value, Share)
        else round(measure.value, 2)
        for one in found
        for measure in one.measures
    }
    print(json.dumps({**values, "seconds": seconds}))
    for one in found if args.out is not None else ():
        columns = max(len(case.images) for case in one.cases)
        cells = [contact_cell(image, CELL) for case in one.cases for image in case.images]
        captions = [case.caption if not number else "" for case in one.cases for number in range(len(case.images))]
        write_png(args.out / f"{one.name}.png", grid(cells, columns=columns, captions=captions))


if __name__ == "__main__":
    main()
