"""Accuracy of a decoder of pixels or latents on scenes of level 1, judged from the pixels by the scenes' reader.

    python benchmarks/pixel_decoder_accuracy.py --decoder runs/demo-unclip/pixel-decoder --prior runs/demo-unclip/prior

It samples one image of each caption from the prior's vector, from the vector of a rendered image of the caption, and
from the caption alone. It prints the share of images that show all of the caption, as JSON.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from dalle_jax.evaluate.metrics.composition import SPLITS, Split, evaluation_captions, measure_cell
from dalle_jax.pipelines.load.models import read_model_file
from dalle_jax.pipelines.load.pixel_unclip_pipeline import load_pixel_unclip
from dalle_jax.pipelines.pixel_unclip import PixelUnclip
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.scenes import grammar
from dalle_jax.scenes.rendering import render

LEVEL = 1


def share(captions: tuple[str, ...], split: Split, images: np.ndarray) -> float | None:
    """Return the share of images [P H W 3] that show their caption."""
    cell, _ = measure_cell(LEVEL, split, captions, images[:, None], np.zeros((len(captions), 1), np.float32))
    return cell.first.value


def drawn(pipeline: PixelUnclip, captions: tuple[str, ...], guidance: float) -> np.ndarray:
    requests = [
        Request(caption, RequestOptions(candidates=1, guidance=guidance, seed=seed))
        for seed, caption in enumerate(captions)
    ]
    return np.stack([one.candidates[0] for one in pipeline.draw(requests)])


def from_true_vectors(pipeline: PixelUnclip, captions: tuple[str, ...], guidance: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    rendered = np.stack([render(grammar.parse(one), pipeline.side, rng) for one in captions])
    keys = jax.random.split(jax.random.key(0), len(captions))
    return pipeline.decode(pipeline.embedder.image_vectors(rendered), keys, guidance)


def main() -> None:
    """Sample, judge, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--captions", type=int, default=80)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    needs = {"decoder": str(args.decoder), **read_model_file(args.decoder).needs}
    needs |= {} if args.prior is None else {"prior": str(args.prior)}
    found: dict[str, dict[str, float | None]] = {"prior": {}, "true_vector": {}, "caption": {}}
    began = time.monotonic()
    reading = load_pixel_unclip(needs, steps=args.steps)
    captioned = load_pixel_unclip(needs, sees="caption", steps=args.steps)
    for split in SPLITS:
        captions = evaluation_captions(LEVEL, split, args.captions, 0)
        images = {
            "prior": drawn(reading, captions, args.guidance),
            "true_vector": from_true_vectors(reading, captions, args.guidance),
            "caption": drawn(captioned, captions, args.guidance),
        }
        for name, shares in found.items():
            shares[split] = share(captions, split, images[name])
    print(json.dumps({"first_right": found, "captions": args.captions, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
