"""Comparison of finished demos with different transformers, written as the JSON that the report shows.

python -m dalle_jax demo --out runs/demo
cp -r runs/demo/{text.model,tokenizer,clip} runs/demo_bart/      # all share the other stages
python -m dalle_jax demo --set "stages.transformer='demo/dalle_bart.gin'" --out runs/demo_bart
python benchmarks/demo_transformers.py dalle=runs/demo dalle_bart=runs/demo_bart --out configs/demo/transformers.json

The model FLOPs of their training must agree within two percent.
"""

import argparse
import json
import sys
from pathlib import Path

from arithmetic import flops_of_a_step

from dalle_jax.config.bind import load
from dalle_jax.runs import TrainRun


def figures(folder: Path) -> list[dict]:
    """Return the compared metrics of one finished demo."""
    metrics = json.loads((folder / "metrics.json").read_text())
    out = [
        {"path": "image_nll", "label": "nats per code", "value": metrics["transformer"]["image_nll"], "kind": "nats"},
    ]
    for level, splits in metrics["composition"].items():
        for split, cell in splits.items():
            label = f"{level.replace('_', ' ')} {split.replace('_', ' ')}, CLIP's choice of 16"
            out.append({"path": f"{level}/{split}", "label": label, "value": cell["reranked_16"], "kind": "percent"})
    return out


def trained(folder: Path) -> tuple[int, float]:
    """Return the training steps of a finished demo's transformer, and their model FLOPs."""
    steps = json.loads((folder / "stages.json").read_text())["transformer"]["steps"]
    return steps, steps * flops_of_a_step(load(str(folder / "transformer" / "config.gin"), TrainRun))


def right(contender: dict) -> float:
    """Return the mean accuracy of CLIP's choices over levels and splits."""
    shares = [figure["value"] for figure in contender["figures"] if figure["kind"] == "percent"]
    return sum(shares) / len(shares)


def main() -> None:
    """Read the named demos and write their comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    contenders, costs = [], {}
    for name, _, folder in (demo.partition("=") for demo in args.demos):
        if not (Path(folder) / "metrics.json").is_file():
            sys.exit(f"{name}: expected NAME=FOLDER of a finished demo, found no metrics.json in {folder!r}")
        contenders.append({"name": name, "figures": figures(Path(folder))})
        costs[name] = trained(Path(folder))
    flops = [each for _, each in costs.values()]
    if max(flops) > 1.02 * min(flops):
        sys.exit(f"expected transformers trained for the same FLOPs, got (steps, FLOPs) {costs}")
    best = max(contenders, key=right)
    means = ", ".join(f"{one['name']} {100 * right(one):.0f} %" for one in contenders)
    why = (
        f"Right over all levels and splits, with CLIP's choice of 16, after {max(flops) / 1e12:.1f} TFLOP of training "
        f"each: {means}. Same data and other stages."
    )
    text = json.dumps({"contenders": contenders, "chosen": best["name"], "why": why}, indent=2)
    args.out.write_text(text + "\n")
    print(why, f"Subset: {best['name']}.")


if __name__ == "__main__":
    main()
