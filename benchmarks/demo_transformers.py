"""Which of the demo's two transformers measures better: two finished demos to the JSON that the report shows.

python -m dalle_jax demo --out runs/demo
cp -r runs/demo/{text.model,tokenizer,clip} runs/demo_bart/      # so that both draw with the same other stages
python -m dalle_jax demo --set "transformer='demo/dalle_bart.gin'" --out runs/demo_bart
python benchmarks/demo_transformers.py dalle=runs/demo dalle_bart=runs/demo_bart --out configs/demo/transformers.json
"""

import argparse
import json
import sys
from pathlib import Path


def figures(folder: Path) -> list[dict]:
    """The figures of one finished demo that are compared."""
    metrics = json.loads((folder / "metrics.json").read_text())
    out = [
        {"path": "image_nll", "label": "nats per code", "value": metrics["transformer"]["image_nll"], "kind": "nats"},
    ]
    for level, splits in metrics["composition"].items():
        for split, cell in splits.items():
            label = f"{level.replace('_', ' ')} {split.replace('_', ' ')}, CLIP's choice of 16"
            out.append({"path": f"{level}/{split}", "label": label, "value": cell["reranked_16"], "kind": "percent"})
    return out


def steps(folder: Path) -> int:
    """How many steps the transformer of a finished demo was trained for."""
    return json.loads((folder / "stages.json").read_text())["transformer"]["steps"]


def right(contender: dict) -> float:
    """The mean share of right choices over levels and splits."""
    shares = [figure["value"] for figure in contender["figures"] if figure["kind"] == "percent"]
    return sum(shares) / len(shares)


def main() -> None:
    """Reads the finished demos that are named and writes what is compared of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demos", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    contenders, trained = [], set()
    for name, _, folder in (demo.partition("=") for demo in args.demos):
        if not (Path(folder) / "metrics.json").is_file():
            sys.exit(f"{name}: expected NAME=FOLDER of a finished demo, found no metrics.json in {folder!r}")
        contenders.append({"name": name, "figures": figures(Path(folder))})
        trained.add(steps(Path(folder)))
    if len(trained) > 1:
        sys.exit(f"expected demos of equal length, got transformers trained for {sorted(trained)} steps")
    best = max(contenders, key=right)
    means = ", ".join(f"{one['name']} {100 * right(one):.0f} %" for one in contenders)
    why = (
        f"Right over all levels and splits, with CLIP's choice of 16, after {trained.pop()} steps: {means}. "
        "Same data, steps and other stages."
    )
    text = json.dumps({"contenders": contenders, "chosen": best["name"], "why": why}, indent=2)
    args.out.write_text(text + "\n")
    print(why, f"Chosen: {best['name']}.")


if __name__ == "__main__":
    main()
