"""Behaviour of the metrics of distributions on real images: two halves, and a half that is distorted more and more.

    python benchmarks/metric_behaviour.py --data 'DIR/*.tar' --out runs/metric_behaviour

The records are shuffled. The first ``--images`` are the reference, the next the clean half. The clean half is then
blurred, noised, compressed as JPEG and tinted. For dropped modes, other images of only a few of the largest groups
(``--mode-field`` of the records' metadata) replace it. Features are kept in ``OUT/statistics``, so an interrupted run
goes on where it was. The script prints a Markdown table and JSON, and writes a plot for each metric.
"""

import argparse
import collections
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor
from dalle_jax.evaluate.features.open_features import open_features
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.kernel_distance import KernelDistance
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import SlicedWasserstein
from dalle_jax.evaluate.metrics.distributions.statistics_file import FeatureName, cached_statistics
from dalle_jax.evaluate.metrics.metric import Measurement
from dalle_jax.evaluate.report.charts import Chart, Line, drawing
from dalle_jax.evaluate.report.environment import render
from dalle_jax.images.decode import decode_image
from dalle_jax.images.header import Limits, read_header

BATCH = 64
SHARED = (KernelDistance(subsets=0), NeighbourShares())
WITH_NOISE = (FrechetDistance(), SlicedWasserstein())
WITHOUT = (FrechetDistance(with_noise=False), SlicedWasserstein(shuffles=0))
Distort = Callable[[Image.Image, int], Image.Image]


def blurred(image: Image.Image, level: int) -> Image.Image:
    """Blur with a Gaussian of 0.5, 1 or 2 px."""
    return image.filter(ImageFilter.GaussianBlur((0.5, 1, 2)[level]))


def noised(image: Image.Image, level: int) -> Image.Image:
    """Add Gaussian noise of deviation 8, 16 or 32 of 255; the same image gets the same noise."""
    pixels = np.asarray(image)
    rng = np.random.default_rng(int(pixels.sum()))
    noisy = pixels + rng.normal(scale=(8, 16, 32)[level], size=pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, level: int) -> Image.Image:
    """Compress as a JPEG of quality 50, 20 or 8."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=(50, 20, 8)[level])
    return Image.open(stream).convert("RGB")


def tinted(image: Image.Image, level: int) -> Image.Image:
    """Raise red and lower blue by 15, 30 or 60 of 255."""
    step = (15, 30, 60)[level]
    shifted = np.asarray(image).astype(np.int16) + np.array([step, 0, -step], np.int16)
    return Image.fromarray(np.clip(shifted, 0, 255).astype(np.uint8))


KINDS: Mapping[str, Distort] = {"blur": blurred, "noise": noised, "JPEG": compressed, "tint": tinted}
MODES = "dropped modes"
GROUPS = (12, 6, 3)
"""Groups that are kept at each level of dropped modes."""


@dataclass(frozen=True)
class Selection:
    """Images of one row of the table: indexes of records, and the distortion of each."""

    kind: str
    level: int
    indexes: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.kind} {self.level}"


def selections(groups: list[str], count: int, levels: int, seed: int) -> Iterator[Selection]:
    """Yield the reference, the clean half, and each kind at each level, mild ones first."""
    order = np.random.default_rng(seed).permutation(len(groups))
    yield Selection("reference", 0, order[:count])
    yield Selection("clean", 0, order[count : 2 * count])
    largest = [name for name, _ in collections.Counter(groups).most_common()]
    for level in range(levels):
        for kind in KINDS:
            yield Selection(kind, level + 1, order[count : 2 * count])
        kept = set(largest[: GROUPS[level]])
        some = [index for index in order[count:] if groups[index] in kept][:count]
        if len(some) < count:
            sys.exit(f"dropped modes: expected {count} images of {GROUPS[level]} groups, got {len(some)}")
        yield Selection(MODES, level + 1, np.array(some))


def measure(extractor: FeatureExtractor, records, chosen: Selection, size: int) -> FeatureSet:
    """Decode, distort and embed the images of a selection."""
    found = FeatureSet(extractor.name, extractor.width, (size, size))
    for start in range(0, len(chosen.indexes), BATCH):
        part = chosen.indexes[start : start + BATCH]
        images = []
        for index in part:
            image = decode_image(read_header(records[int(index)].image, Limits())).resize((size, size), Image.BICUBIC)
            if chosen.kind in KINDS:
                image = KINDS[chosen.kind](image, chosen.level - 1)
            images.append(np.asarray(image))
        found.update(FeatureRows(part.astype(np.int64), extractor.features(np.stack(images))))
    return found


def chart_of(name: str, rows: Mapping[str, list[Measurement]], noise: float | None) -> Chart:
    """Return the chart of a metric: a line for each kind, from the clean half on."""
    lines = [Line(kind, tuple((level, one.value) for level, one in enumerate(found))) for kind, found in rows.items()]
    if noise is not None:
        levels = max(len(found) for found in rows.values()) - 1
        lines.append(Line("two equal samples", ((0, noise), (levels, noise))))
    positive = all(y > 0 for line in lines for _, y in line.points)
    ticks = tuple(range(max(map(len, rows.values()))))
    return Chart(name, "level of the distortion", tuple(lines), log_y=positive, x_ticks=ticks)


def svg(chart: Chart) -> str:
    """Render a chart as a file of its own, with the styles that a report's page has."""
    drawn = render("chart.svg.j2", chart=drawing(chart))
    head, _, rest = drawn[drawn.index("<svg") :].strip().partition(">")
    style = "<style>svg { background: #fff } text { font: 12px sans-serif; fill: #444 } "
    style += ".grid { stroke: #ddd } .axis { stroke: #888 }</style>"
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{rest}'


def main() -> None:
    """Measure the halves and each distortion of one, print the table, and write it and the plots to ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="tars of images")
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=1300, help="images of each half")
    parser.add_argument("--levels", type=int, default=3, choices=(0, 1, 2, 3), help="0 compares the halves alone")
    parser.add_argument("--mode-field", default="style")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    records = WebDataset(tuple(args.data), index_folder=str(args.out)).open()
    groups_file = args.out / "groups.json"
    if not groups_file.exists():
        groups = [str(records[index].metadata.get(args.mode_field, "")) for index in range(len(records))]
        groups_file.write_text(json.dumps(groups))
    groups = json.loads(groups_file.read_text())
    extractor = open_features(args.features, batch=BATCH)
    sets: dict[str, FeatureSet] = {}
    for chosen in selections(groups, args.images, args.levels, args.seed):
        start = time.perf_counter()
        data = f"{records.fingerprint()} {chosen.name} {args.images} {args.size} {args.seed}"
        (sets[chosen.name],) = cached_statistics(
            args.out / "statistics", [FeatureName(extractor.name, extractor.width)], data,
            lambda missing, chosen=chosen: [measure(extractor, records, chosen, args.size)],
            lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        print(f"{chosen.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    report(args.out, sets)


def report(out: Path, sets: dict[str, FeatureSet]) -> None:
    """Print the table, and write the plots and the JSON."""
    found: dict[str, dict[str, Measurement]] = {}
    for name, one in sets.items():
        if name != "reference 0":
            distances = (*(WITH_NOISE if name == "clean 0" else WITHOUT), *SHARED)
            measured = (each for distance in distances for each in distance.compare(sets["reference 0"], one))
            found[name] = {each.name: each for each in measured}
            print(f"{name} compared", file=sys.stderr, flush=True)
    clean = found.pop("clean 0")
    metrics = list(clean)
    print("| images | " + " | ".join(metrics) + " |\n|---" * 1 + "|---" * len(metrics) + "|")
    for name, row in {"clean half": clean, **found}.items():
        print(f"| {name} | " + " | ".join(f"{row[metric].value:.4g}" for metric in metrics) + " |")
    noises = {metric: clean[metric].noise for metric in metrics}
    print(
        "| two samples of one distribution | "
        + " | ".join("" if one is None else f"{one:.4g}" for one in noises.values())
        + " |"
    )
    kinds = dict.fromkeys(name.rpartition(" ")[0] for name in found)
    for metric in metrics if kinds else ():  # without distortions there is nothing to plot
        rows = {
            kind: [clean[metric], *(row[metric] for name, row in found.items() if name.rpartition(" ")[0] == kind)]
            for kind in kinds
        }
        (out / f"{metric}.svg").write_text(svg(chart_of(metric, rows, noises[metric])))
    everything = {
        name: {metric: one.to_json() for metric, one in row.items()} for name, row in {"clean": clean, **found}.items()
    }
    (out / "metric_behaviour.json").write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
