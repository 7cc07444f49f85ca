"""Image quality beside DALLE-pytorch: both train for the same CPU time on the same images, and are judged alike.

    python benchmarks/quality.py prepare --data 'data/real/*.tar' --text runs/real/text.model --out runs/quality
    PEER=".venv-bench/bin/python benchmarks/peer_quality.py"
    $PEER train --data runs/quality --seconds 2700 --out runs/peer
    $PEER sample --data runs/quality/report --run runs/peer --out runs/quality/peer.npy
    python benchmarks/quality.py sample --data runs/quality/report --model runs/real --out runs/quality/ours
    python benchmarks/quality.py judge --data runs/quality/report --judge runs/real_judge/clip \\
        --images peer=runs/quality/peer.npy 'ours, first=runs/quality/ours_first.npy'

Our stages are those of configs/runs/real, one process on one core, and their CPU time is what ``time`` prints. The
held-out images (configs/data/real.gin) are in two halves by their things: ``choice``, to choose guidance and
temperature by, and ``report``. The prompts of ``report`` are the captions of its half, then of training images. The
reference is their images. The judge is a CLIP that neither used (configs/runs/real/judge.gin). FD needs more images
than its 1,280 features. ``--sheet`` draws some of the prompts.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dalle_jax.data.labelled_images import LabelledImage, read_labelled_images
from dalle_jax.data.seeded_hash import draw
from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor
from dalle_jax.evaluate.features.vision_features import efficientnet_lite0
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.kernel_distance import KernelDistance
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares
from dalle_jax.evaluate.metrics.distributions.set_comparison import FeatureDistance
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import SlicedWasserstein
from dalle_jax.evaluate.metrics.icon_colours import IconColours, read_icon
from dalle_jax.evaluate.metrics.shares import share_of
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_captioned import retrieved_among
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.load.models import stage_folders
from dalle_jax.pipelines.load.pipeline import load_ranker, load_transformer_pipeline
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.runs import TrainRun, load_run
from dalle_jax.text.sentencepiece import SentencePiece

AMONG = 100
CONFIG = "runs/real/transformer.gin"
COLUMNS = 12


def prepare(options: argparse.Namespace) -> None:
    """Write the training images with the token ids of their captions, and both halves of the reference and its prompts.

    ``report`` also has evenly spaced training images, up to ``--prompts``.
    """
    data = load_run(CONFIG, TrainRun, [f"data.source.files=('{options.data}',)"]).data
    both = read_labelled_images(data.source, data.images, data.evaluation, lambda metadata: True, 10**9)
    training, held_out = both
    halves = [[one for one in held_out if draw(0, str(one.metadata["thing"])) % 2 == half] for half in (0, 1)]
    more = max(0, options.prompts - len(halves[1]))
    halves[1] += [training[number * len(training) // more] for number in range(more)]
    length = load_run(CONFIG, TrainRun).task.model.text_length
    text = SentencePiece(options.text.read_bytes(), length)
    options.out.mkdir(parents=True, exist_ok=True)
    write_part(options.out, training, text, ("images", "text"))
    for name, part in zip(("choice", "report"), halves, strict=True):
        (options.out / name).mkdir(exist_ok=True)
        write_part(options.out / name, part, text, ("reference", "prompts"))
        fields = [{field: one.metadata.get(field) for field in ("colour", "background", "style")} for one in part]
        about = {"prompts": [one.caption for one in part], "metadata": fields}
        (options.out / name / "about.json").write_text(json.dumps(about) + "\n")
    about = {"size": data.images.size, "vocabulary": text.vocab_size}
    (options.out / "about.json").write_text(json.dumps(about) + "\n")
    print(f"{len(training)} images to train on, {len(halves[0])} prompts to choose by")
    print(f"{len(halves[1])} prompts to report, {len(halves[1]) - more} of them of held-out images")


def write_part(folder: Path, part: Sequence[LabelledImage], text: SentencePiece, names: tuple[str, str]) -> None:
    """Write the images and the token ids of their captions."""
    np.save(folder / f"{names[0]}.npy", np.stack([one.image for one in part]))
    np.save(folder / f"{names[1]}.npy", text.encode_batch([one.caption for one in part]))


def sample(options: argparse.Namespace) -> None:
    """Draw the prompts with our model; write the first candidates, CLIP's choices, and reconstructions."""
    prompts = json.loads((options.data / "about.json").read_text())["prompts"]
    pipeline = load_transformer_pipeline(stage_folders(options.model).needs, 128)
    drawing = Drawing(candidates=options.candidates, temperature=options.temperature, guidance=options.guidance)
    began = time.process_time()
    drawn = pipeline.draw(drawing.requests(tuple(prompts[: options.prompts]), 0))
    print(f"{len(drawn)} x {options.candidates} images in {time.process_time() - began:.0f} CPU s")
    found = {
        "first": [one.candidates[0] for one in drawn],
        "chosen": [one.candidates[one.chosen[0]] for one in drawn],
        "reconstructed": pipeline.codec.reconstruct(np.load(options.data / "reference.npy")),
    }
    for name, images in found.items():
        np.save(options.out.with_name(f"{options.out.name}_{name}.npy"), np.stack(images))


class Judge:
    """The reference images, and what images of the same prompts are compared by."""

    def __init__(self, data: Path, clip: ClipRanker, features: FeatureExtractor):
        about = json.loads((data / "about.json").read_text())
        self.prompts: list[str] = about["prompts"]
        self.colours = [IconColours(one["colour"], one["background"]) for one in about["metadata"]]
        self.clip, self.features = clip, features
        self.originals = np.load(data / "reference.npy")
        self.reference = self.feature_set(self.originals)

    def feature_set(self, images: np.ndarray) -> FeatureSet:
        """Return the features of images, numbered in order."""
        rows = self.features.features(images)
        found = FeatureSet(self.features.name, self.features.width, images.shape[1:3])
        found.update(FeatureRows(np.arange(len(rows)), rows))
        return found

    def retrieval(self, images: np.ndarray) -> np.ndarray:
        """Return 1 for each image whose prompt is the most similar of the ``AMONG`` prompts of its group, else 0."""
        found = []
        for start in range(0, len(images) - AMONG + 1, AMONG):
            texts = self.prompts[start : start + AMONG]
            found.append(retrieved_among(self.clip.similarity(images[start : start + AMONG], texts), texts, 1))
        return np.concatenate(found)

    def figures(self, images: np.ndarray) -> dict[str, object]:
        """Measure one image for each of the first prompts."""
        generated = self.feature_set(images)
        distances: list[FeatureDistance] = [KernelDistance(subsets=0), SlicedWasserstein(), NeighbourShares()]
        if min(generated.count, self.reference.count) > self.features.width:  # or its covariance is singular
            distances.append(FrechetDistance())
        found = [one for distance in distances for one in distance.compare(self.reference, generated)]
        out: dict[str, object] = {one.name: one.to_json() for one in found}
        out["retrieval"] = share_of(map(bool, self.retrieval(images))).value
        icons = [(image, names) for image, names in zip(images, self.colours, strict=False) if names.glyph]
        read = [(read_icon(image), names) for image, names in icons]
        out["glyph_colour"] = share_of(one.glyph == names.glyph for one, names in read).value
        out["ground_colour"] = share_of(one.ground == names.ground for one, names in read).value
        return {**out, "icons": len(read)}


HEADS = ("fd", "kid", "mind", "precision", "recall", "coverage", "retrieval", "glyph_colour", "ground_colour")


def table(figures: dict[str, dict]) -> str:
    """Return a row for each set of images."""
    rows = ["| images | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for name, one in figures.items():
        values = [one[head]["value"] if isinstance(one.get(head), dict) else one.get(head) for head in HEADS]
        rows.append(f"| {name} | " + " | ".join("-" if value is None else f"{value:.4g}" for value in values) + " |")
    return "\n".join(rows)


def named(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Load the arrays of ``NAME=FILE``."""
    return {name: np.load(file) for name, _, file in (text.rpartition("=") for text in texts)}


def judge(options: argparse.Namespace) -> None:
    """Measure every set of images. The first row is of as many training images, of which FD shows the bias."""
    found = Judge(options.data, load_ranker(options.judge), efficientnet_lite0(options.features))
    sets = named(options.images)
    training = np.load(options.data.parent / "images.npy", mmap_mode="r")
    count = max(len(images) for images in sets.values())
    few = np.asarray(training[np.arange(count) * len(training) // count])
    print(f"retrieval of the reference images themselves: {found.retrieval(found.originals).mean():.3f}", flush=True)
    figures = {
        "training images": {**found.figures(few), "retrieval": None, "glyph_colour": None, "ground_colour": None}
    }
    for name, images in sets.items():
        figures[name] = found.figures(images)
        print(table(figures).splitlines()[-1], flush=True)
    print(table(figures))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if options.sheet:
        shown = [found.originals, *sets.values()]
        places = np.arange(COLUMNS) * len(found.prompts) // COLUMNS + 3
        cells = [images[place] for images in shown for place in places if place < len(images)]
        captions = [found.prompts[place] for place in places]
        first, others = cells[: len(captions)], cells[len(captions) :]
        write_png(options.sheet, np.concatenate([grid(first, COLUMNS, captions), grid(others, COLUMNS)]))


def main() -> None:
    """Prepare the data, sample our model, or judge the images of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing, sampling, judging = (commands.add_parser(name) for name in ("prepare", "sample", "judge"))
    preparing.add_argument("--data", required=True, help="the tars: a folder or a pattern")
    preparing.add_argument("--text", type=Path, required=True, help="our text tokenizer, which the peer uses too")
    preparing.add_argument("--out", type=Path, required=True)
    preparing.add_argument("--prompts", type=int, default=1400, help="of the half to report")
    sampling.add_argument("--data", type=Path, required=True)
    sampling.add_argument("--model", type=Path, required=True)
    sampling.add_argument("--out", type=Path, required=True, help="the beginning of the files' names")
    sampling.add_argument("--prompts", type=int, default=10**9, help="draw only the first ones")
    sampling.add_argument("--candidates", type=int, default=8)
    sampling.add_argument("--temperature", type=float, default=0.9)
    sampling.add_argument("--guidance", type=float, default=2.0)
    judging.add_argument("--data", type=Path, required=True)
    judging.add_argument("--judge", type=Path, required=True, help="the CLIP")
    judging.add_argument(
        "--features", type=Path, help="the file of EfficientNet-Lite0's weights (default: its package's)"
    )
    judging.add_argument("--images", nargs="+", required=True, metavar="NAME=FILE")
    judging.add_argument("--out", type=Path, help="the JSON file to write")
    judging.add_argument("--sheet", type=Path, help="the PNG file of the first prompts")
    options = parser.parse_args()
    {"prepare": prepare, "sample": sample, "judge": judge}[options.command](options)


if __name__ == "__main__":
    main()
