"""Kinds of priors at equal training time, on a finished unCLIP demo: cosines, and accuracy of images through them.

    python benchmarks/priors.py --demo runs/demo-unclip --seconds 60

The demo's CLIP embeds scenes once. Each prior trains on these vectors with the package's task and trainer step, for
the same CPU seconds, compilation excluded, at a constant rate with an EMA. The decoder and the evaluated captions are
the demo's. Printed as the table of docs/priors.md.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.data.loader import Loader
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.evaluate.metrics.composition import SPLITS, evaluation_captions, measure_cell
from dalle_jax.models.clip import Clip
from dalle_jax.models.model_configs import PriorConfig
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.priors.prior import Prior, PriorOptions, VectorSample, read_text
from dalle_jax.models.priors.text_vector_prior import TextVectorPrior
from dalle_jax.pipelines.compiled_network import CompiledNetwork, one_device
from dalle_jax.pipelines.load.models import load_clip, read_model_file
from dalle_jax.pipelines.load.text import load_text
from dalle_jax.pipelines.load.unclip_pipeline import load_unclip
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.scenes import grammar
from dalle_jax.scenes.rendering import render
from dalle_jax.storage import place
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.predict_embeddings import EmbeddingPrediction, PredictEmbeddings
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.ema import WarmedEma
from dalle_jax.train.optim.optimizers import AdamW, Muon, Optimizer
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer

LEVELS, GUIDANCE, EMBEDDED, WARMUP = (1, 2), 2.0, 256, 50
"""Levels of the captions, guidance of the decoder, images that CLIP embeds at once, steps of the rate's warm-up."""


@dataclass(frozen=True)
class Contender:
    """A prior, its training and its sampling. ``sampling`` is read by ``Prior.draw``."""

    model: PriorConfig
    batch: int
    rate: float
    optimizer: Optimizer
    sampling: PriorOptions


def contenders(clip: Clip) -> dict[str, Contender]:
    """Return the compared priors, of sizes that a CPU trains in a minute."""
    read = {"text_width": clip.config.text.width, "text_length": clip.config.text_length}
    small = {"embed_width": clip.config.embed_width, **read, "width": 128, "depth": 2, "heads": 2}
    muon, one = Muon(weight_decay=0.05), PriorOptions(guidance=1.0)
    codes = {"components": 32, "buckets": 64, "dot_products": 8}
    return {
        "diffusion, MLP": Contender(
            MlpPriorConfig(embed_width=clip.config.embed_width, width=512, hidden=512, layers=4),
            256, 1e-3, AdamW(weight_decay=0.01), one,
        ),
        "diffusion, transformer": Contender(DiffusionPriorConfig(**small), 64, 2e-3, muon, one),
        "one step": Contender(OneStepPriorConfig(**small), 64, 2e-3, muon, one),
        "autoregressive": Contender(AutoregressivePriorConfig(**small, **codes), 32, 2e-3, muon, one),
    }  # fmt: skip


class Store:
    """The vectors of ``count`` scenes, in memory, as examples of ``PredictEmbeddings``. Implements ``Batches``."""

    def __init__(self, data: Loader, clip: Clip, folder: Path, count: int, batch_size: int = 0):
        self.batch_size, text = batch_size, load_text(place(folder), clip.config.text_length)
        embed = CompiledNetwork(clip).jit(_embed)
        self.columns: dict[str, list] = {}
        for step in range(-(-count // EMBEDDED)):
            rows = data.batch(step)
            ids = jnp.asarray(text.encode_batch(rows["caption"]))
            image, states, vector, mask = (np.asarray(one) for one in embed(jnp.asarray(np.stack(rows["image"])), ids))
            found = {
                "key": rows["key"], "caption": rows["caption"], "caption_group": rows["caption_group"],
                "image_vector": list(image), "text_vector": list(vector),
                "text_states": [one[: seen.sum()] for one, seen in zip(states, mask, strict=True)],
            }  # fmt: skip
            for name, values in found.items():
                self.columns.setdefault(name, []).extend(values)

    def batch(self, step: int, rows: Sequence[int]) -> dict:
        """Return rows of a batch that is drawn with replacement."""
        count = len(self.columns["key"])
        chosen = np.random.default_rng(step).integers(0, count, self.batch_size)[list(rows)]
        return {name: [values[index] for index in chosen] for name, values in self.columns.items()}

    def sample(self, count: int) -> VectorSample:
        """Return the vectors of the first examples."""
        return VectorSample(*(np.stack(self.columns[name][:count]) for name in ("image_vector", "text_vector")))


def _embed(clip: Clip, pixels: jax.Array, ids: jax.Array) -> tuple[jax.Array, ...]:
    text = read_text(clip, ids, unit_vectors=True)
    image = clip.encode_image(pixels.astype(jnp.float32) / 255.0).astype(jnp.float16)
    return image, text.states.astype(jnp.float16), text.vector.astype(jnp.float16), text.mask


def train(contender: Contender, store: Store, clip: Clip, folder: Path, seconds: float) -> tuple[Prior, int, float]:
    """Train a prior for ``seconds`` of CPU; return it with its EMA weights, the steps, and the seconds."""
    store.batch_size = contender.batch
    config = PredictEmbeddings(
        contender.model, Captions(file=str(folder / "text.model")), clip.config.text_length, measured_examples=8192
    )
    captions = config.captions.open(config.text_length)
    empty = read_text(clip, jnp.asarray(captions.empty_row()), unit_vectors=True)
    task = EmbeddingPrediction(config, captions, clip, empty, store.sample(config.measured_examples))
    rate = ConstantRate(rate=contender.rate, warmup=WARMUP)
    trainer = Trainer(1_000_000, rate, contender.optimizer, ema=WarmedEma(0.995), clip_norm=1.0)
    layout = one_device()
    compiled = CompiledTask(task, trainer, layout)
    state, rows, began, steps = compiled.state_spec.init_sharded(layout, 0), range(contender.batch), math.inf, 0
    while time.process_time() - began < seconds:
        batch = layout.put_batch(task.prepare(store.batch(steps, rows), None))
        state, sums = compiled.step(state, None, batch)
        jax.block_until_ready(sums)
        began = time.process_time() if steps == 0 else began  # the first call compiles
        steps += 1
    spent = time.process_time() - began
    print(f"{steps} steps, loss {float(sums['loss'][0] / sums['loss'][1]):.3f}", file=sys.stderr, flush=True)
    return compiled.state_spec.module_spec.merge(state.learned.ema_params, state.learned.non_params), steps, spent


def measure(prior: Prior, options: PriorOptions, unclip: Unclip, clip: Clip, count: int, reader: str) -> dict:
    """Return the cosine to the true image's vector, and the share of right images, of each level and split.

    ``reader`` is "text" for a prior's vectors and "image" for the true image's own.
    """
    network = CompiledNetwork(_Both(prior, clip))
    draw = network.jit(_draw, static_argnames=("options",))
    found = {}
    for level in LEVELS:
        for split in SPLITS:
            captions = evaluation_captions(level, split, count, 0)
            rng = np.random.default_rng((0, 3, level))
            images = np.stack([render(grammar.parse(one), unclip.side, rng) for one in captions])
            true = unclip.ranker.image_vectors(images)
            ids = unclip.ranker.text.encode_batch([*captions, ""])
            keys = jax.random.split(jax.random.key(1), (len(captions), 1))
            drawn = np.asarray(draw(jnp.asarray(ids[:-1]), jnp.asarray(ids[-1:]), keys, options=options))[:, 0]
            drawn = true if reader == "image" else drawn
            decoded = unclip.decode(drawn, np.arange(len(captions)), GUIDANCE)[:, None]
            cell = measure_cell(level, split, captions, decoded, np.zeros(decoded.shape[:2], np.float32))[0]
            found[f"{level} {split}"] = {"cosine": float((drawn * true).sum(-1).mean()), "first": cell.first.value}
    return found


class _Both(nnx.Module):
    """A prior and the CLIP that reads its text."""

    def __init__(self, prior: Prior, clip: Clip):
        self.prior, self.clip = nnx.data(prior), clip


def _draw(both: _Both, ids: jax.Array, empty: jax.Array, keys: jax.Array, options: PriorOptions) -> jax.Array:
    text, without = (read_text(both.clip, one, unit_vectors=True) for one in (ids, empty))
    return both.prior.draw(text, without, keys, options)


def line(name: str, cells: dict, steps: int, seconds: float) -> str:
    """Return a row of the table."""
    cosines = " | ".join(f"{one['cosine']:.3f}" for one in cells.values())
    shares = " | ".join(f"{100 * one['first']:.0f} %" for one in cells.values())
    return f"| {name} | {steps or ''} | {f'{seconds:.0f} s' if seconds else ''} | {cosines} | {shares} |"


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo-unclip"))
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each training")
    parser.add_argument("--scenes", type=int, default=20_480)
    parser.add_argument("--captions", type=int, default=80, help="captions of each level and split")
    parser.add_argument("--kinds", nargs="*", help="names of priors (default: all)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    decoder = args.demo / "decoder"
    folder = Path(read_model_file(place(decoder)).needs["clip"])
    clip, unclip = load_clip(place(folder)), load_unclip(place(decoder), None, steps=8, batch=2 * args.captions)
    scenes = Scenes(32, LEVELS, 1_000_000, 0, "train", (1.0, 2.0)).open()
    rows: dict[str, dict] = {}

    def add(name: str, prior: Prior, options: PriorOptions, reader: str, steps: int = 0, seconds: float = 0.0) -> None:
        rows[name] = measure(prior, options, unclip, clip, args.captions, reader)
        print(line(name, rows[name], steps, seconds), flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(rows, indent=1) + "\n")

    add("true image's vector", TextVectorPrior(), PriorOptions(), "image")
    add("text vector, no prior", TextVectorPrior(), PriorOptions(), "text")
    store = Store(Loader(scenes, None, EMBEDDED, 0), clip, folder, args.scenes)
    for name, contender in contenders(clip).items():
        if args.kinds and name not in args.kinds:
            continue
        prior, steps, seconds = train(contender, store, clip, folder, args.seconds)
        add(name, prior, contender.sampling, "text", steps, seconds)


if __name__ == "__main__":
    main()
