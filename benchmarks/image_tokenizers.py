r"""Image tokenizers trained with equal FLOPs: measurements of reconstructed held-out images.

python benchmarks/image_tokenizers.py --out runs/tokenizers --tflop 10 vqvae=configs/demo/tokenizer.gin \
    dvae=configs/demo/dvae.gin

Each config is trained for as many steps as the budget of model FLOPs (train/flops.py) allows; an existing run folder is
resumed. The script writes tokenizers.json, and tokenizers.png with the first held-out images and, below them, the
reconstructions of each tokenizer in the given order.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from arithmetic import flops_of_a_step

import dalle_jax
from dalle_jax.commands.train import train_stage
from dalle_jax.config.bind import load
from dalle_jax.evaluate.report.machine import this_machine
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.runs import TrainRun

SHOWN = 16


def held_out(config: TrainRun, folder: Path) -> np.ndarray:
    """Return the held-out images of a config, uint8 [N H W 3]."""
    batches = config.data.open(folder).evaluation_batches()
    task = config.task.open_for_plan()
    return np.concatenate([task.prepare(examples, None)["pixels"] for examples in batches])


def measure(folder: Path, images: np.ndarray) -> tuple[dict, np.ndarray]:
    """Reconstruct the images; return the measurements and the reconstructions."""
    tokenizer = dalle_jax.load_image_tokenizer(str(folder))
    codes = tokenizer.encode(images)
    copies = tokenizer.decode(codes)
    squared = np.square(copies.astype(np.float64) / 255 - images.astype(np.float64) / 255).mean((1, 2, 3))
    shares = np.bincount(codes.reshape(-1), minlength=tokenizer.codebook_size) / codes.size
    some = shares[shares > 0]
    return {
        "images": len(images),
        "psnr_db": float((-10 * np.log10(squared)).mean()),
        "usage": float((shares > 0).mean()),
        "perplexity": float(np.exp(-(some * np.log(some)).sum())),
    }, copies


def main() -> None:
    """Train each tokenizer, measure it and write its reconstructions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="NAME=CONFIG")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tflop", type=float, required=True, help="model FLOPs of each training, in 10^12")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="for every config")
    args = parser.parse_args()
    rows, shown, images = {}, [], None
    for name, _, path in (one.partition("=") for one in args.configs):
        config: TrainRun = load(path, TrainRun, args.set)
        each = flops_of_a_step(config)
        steps = round(args.tflop * 1e12 / each)
        config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, steps=steps))
        train_stage(config, args.out / name)
        if images is None:
            images = held_out(config, args.out / name)
        figures, copies = measure(args.out / name, images)
        rows[name] = {
            "config": path,
            "steps": steps,
            "batch": config.data.batch_size,
            "tflop": each * steps / 1e12,
            "seconds": json.loads((args.out / name / "goodput.jsonl").read_text().splitlines()[-1])["useful_seconds"],
            **figures,
        }
        print(name, json.dumps(rows[name]), flush=True)
        shown.extend(copies[:SHOWN])
    assert images is not None
    about = {"machine": this_machine().to_json(), "set": args.set}
    (args.out / "tokenizers.json").write_text(json.dumps({**about, "tokenizers": rows}, indent=2) + "\n")
    write_png(args.out / "tokenizers.png", grid([*images[:SHOWN], *shown], SHOWN, scale=2))


if __name__ == "__main__":
    main()
