"""Accuracy of samplers with few steps, beside DDPM's 250: a small pixel diffusion model of captioned scenes.

    python benchmarks/sampler_accuracy.py [--steps 800] [--captions 768] [--out FOLDER]

It trains a patch transformer (models/patch_denoisers) on single objects of 16 px, from colour, shape and size, as x0 on
the cosine schedule. Then each sampler draws one image per caption from the same first noise, without guidance, and the
scenes' reader judges the images. FOLDER keeps the weights. ``results/sampler_accuracy.json`` holds the result.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dalle_jax.commands.memory import keep_large_buffers
from dalle_jax.diffusion.continuous import LogitNormalTimes, as_timesteps
from dalle_jax.diffusion.levels import add_noise, initial_noise
from dalle_jax.diffusion.loss import simple_loss
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, Sampler
from dalle_jax.diffusion.spacing import RoundedSteps
from dalle_jax.diffusion.weighting import UniformWeight
from dalle_jax.evaluate.metrics.shares import Share, share_of
from dalle_jax.images.pixels import to_uint8
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.models.patch_denoisers.patch_transformer import PatchTransformerConfig
from dalle_jax.models.unet import UNetContext
from dalle_jax.parallel.axes import VOCAB
from dalle_jax.scenes.grammar import sample_scene
from dalle_jax.scenes.judge import judge_scene
from dalle_jax.scenes.perceive import perceive
from dalle_jax.scenes.rendering import render
from dalle_jax.scenes.scene import COLOURS, SHAPES, SIZES, Scene
from dalle_jax.train.optim.optimizers import Muon
from dalle_jax.train.optim.parameter_masks import ParameterShape

SIZE, BATCH, DISTINCT, DRAWN = 16, 64, 16_384, 128
WORDS = (*COLOURS, *SHAPES, *SIZES)
PROCESS = DiscreteProcess.of(CosineNoise(1000))
TIMES = LogitNormalTimes(1.0, 1.2)
RATE, WARMUP, EMA = 2e-3, 50, 0.995
MODEL = PatchTransformerConfig(width=128, layers=4, heads=4, patch=2, context_width=128)
SAMPLERS: dict[str, tuple[Sampler, int]] = {
    "DDPM, 250 steps": (Ddpm("fixed_small"), 250),
    "DDPM, 20 steps": (Ddpm("fixed_small"), 20),
    "DDIM, 20 steps": (Ddim(), 20),
    "DPM-Solver++ 2M, 20 steps": (DpmSolver(2), 20),
    "DPM-Solver++ 3M, 20 steps": (DpmSolver(3), 20),
    "DPM-Solver++ 2M, 10 steps": (DpmSolver(2), 10),
}
REFERENCE, TARGET = "DDPM, 250 steps", "DPM-Solver++ 2M, 20 steps"

Params = dict[str, jax.Array]


class Shown(NamedTuple):
    """Scenes, their words [n 3], and perhaps their pixels [n SIZE SIZE 3] in -1 .. 1."""

    scenes: list[Scene]
    words: np.ndarray
    pixels: np.ndarray


def shown(count: int, seed: int) -> Shown:
    """Draw and render single objects of seen combinations."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(1, rng, "train") for _ in range(count)]
    things = [scene.objects[0] for scene in scenes]
    words = np.array([[WORDS.index(str(word)) for word in (one.colour, one.shape, one.size)] for one in things])
    pixels = np.stack([render(scene, SIZE, rng) for scene in scenes]).astype(np.float32)
    return Shown(scenes, words, pixels / 127.5 - 1)


class SceneDenoiser(nnx.Module):
    """The patch transformer with a table of words: context tokens, and their sum beside the time."""

    def __init__(self, rngs: nnx.Rngs):
        self.words = Embedding(len(WORDS), MODEL.width, axis=VOCAB, init=nnx.initializers.normal(1.0), rngs=rngs)
        self.network = MODEL.build(rngs)

    def __call__(self, x: jax.Array, time: jax.Array, words: jax.Array) -> ModelOutput:
        """Predict x0."""
        tokens = self.words(words)  # [B 3 D]
        return ModelOutput(self.network(x, time, vector=tokens.sum(axis=1), context=UNetContext(tokens)))


class Trained(NamedTuple):
    """The parameters, their EMA and the optimizer's state."""

    params: Params
    ema: Params
    optimizer: optax.OptState


def merged(graph: nnx.GraphDef, paths: dict[str, tuple], params: Params) -> SceneDenoiser:
    """Return the network with these parameters."""
    return nnx.merge(graph, nnx.State.from_flat_path({paths[name]: nnx.Param(one) for name, one in params.items()}))


def train(steps: int) -> tuple[Callable[[Params], SceneDenoiser], Params, list[float]]:
    """Train on one stream of examples; return how to build the network, the EMA and the loss of each step."""
    graph, state = nnx.split(SceneDenoiser(nnx.Rngs(0)))
    flat = {".".join(map(str, path)): (path, one) for path, one in nnx.to_flat_state(state)}
    paths = {name: path for name, (path, _) in flat.items()}
    shapes = {name: ParameterShape(one.get_metadata()["axes"], one.shape) for name, (_, one) in flat.items()}
    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, WARMUP, steps, 0.05 * RATE)
    muon = Muon().transformation(shapes)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), muon, optax.scale_by_learning_rate(schedule))
    params = {name: one[...] for name, (_, one) in flat.items()}
    trained = Trained(params, params, optimizer.init(params))
    data = shown(DISTINCT, seed=1)

    @jax.jit
    def step(trained: Trained, pixels: jax.Array, words: jax.Array, number: jax.Array) -> tuple[Trained, jax.Array]:
        """Update the network on images [B H W 3] and their word ids [B T]; return the loss too."""
        times, noises = jax.random.split(jax.random.fold_in(jax.random.key(2), number))
        level = PROCESS.level(as_timesteps(TIMES.draw(jax.random.split(times, BATCH)), PROCESS.steps))
        noise = jax.random.normal(noises, pixels.shape)

        def loss(params: Params) -> jax.Array:
            output = merged(graph, paths, params)(add_noise(pixels, noise, level), level.time, words)
            return simple_loss(output, pixels, noise, level, "x0", UniformWeight()).mean()

        value, gradients = jax.value_and_grad(loss)(trained.params)
        updates, state = optimizer.update(gradients, trained.optimizer, trained.params)
        params = optax.apply_updates(trained.params, updates)
        decay = jnp.minimum(EMA, (1.0 + number) / (10.0 + number))
        ema = jax.tree.map(lambda mean, one: decay * mean + (1 - decay) * one, trained.ema, params)
        return Trained(params, ema, state), value

    rng, losses = np.random.default_rng(3), []
    for number in range(steps):
        rows = rng.integers(DISTINCT, size=BATCH)
        trained, value = step(trained, data.pixels[rows], data.words[rows], jnp.float32(number))
        losses.append(float(value))
        if (number + 1) % 50 == 0:
            print(f"step {number + 1}: loss {np.mean(losses[-50:]):.4f}, {time.process_time():.0f} CPU s", flush=True)
    return lambda params: merged(graph, paths, params), trained.ema, losses


def draw(network: SceneDenoiser, words: np.ndarray, sampler: Sampler, steps: int) -> tuple[np.ndarray, float]:
    """Draw an image uint8 for each row of words; return them, and the CPU seconds of an image after the first batch.

    The first noise depends on the row alone.
    """
    levels = PROCESS.respaced(RoundedSteps(steps)).levels

    @nnx.jit
    def run(network: SceneDenoiser, words: jax.Array, keys: jax.Array) -> jax.Array:
        start, noise = initial_noise(keys, (SIZE, SIZE, 3)), KeyedNoise(keys)
        x0 = sampler.sample(
            lambda x, level: network(x, level.time, words), levels, start, noise, Parameterization("x0", ClipX0())
        )
        return to_uint8((x0 + 1) / 2)

    keys = jax.random.split(jax.random.key(4), len(words))
    images, seconds = [], []
    for start in range(0, len(words), DRAWN):
        began, rows = time.process_time(), slice(start, start + DRAWN)
        images.append(np.asarray(run(network, words[rows], keys[rows])))
        seconds.append((time.process_time() - began) / len(images[-1]))
    return np.concatenate(images), float(np.median(seconds[1:]))


class Accuracy(NamedTuple):
    """The shares of right parts and of images whose parts are all right."""

    parts: Share
    whole: Share


def judged(images: np.ndarray, scenes: list[Scene]) -> Accuracy:
    """Judge an image for each scene."""
    verdicts = [judge_scene(perceive(image), scene, "") for image, scene in zip(images, scenes, strict=True)]
    return Accuracy(
        share_of(part.right for one in verdicts for part in one.parts), share_of(one.right for one in verdicts)
    )


def figures(share: Share, reference: Share) -> dict[str, object]:
    """Return a share and its difference to the reference, with 95 % intervals.

    Intervals are Wilson's, and for differences Newcombe's of independent shares (1998, method 10), which is too wide
    for pairs.
    """
    low, high = share.interval or (0.0, 1.0)
    reference_low, reference_high = reference.interval or (0.0, 1.0)
    value, other = share.value or 0.0, reference.value or 0.0
    below = ((value - low) ** 2 + (reference_high - other) ** 2) ** 0.5
    above = ((high - value) ** 2 + (other - reference_low) ** 2) ** 0.5
    off = value - other
    return {
        "right": share.right,
        "count": share.count,
        "share": round(value, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "minus_reference": round(off, 4),
        "minus_reference_interval_95": [round(off - below, 4), round(off + above, 4)],
    }


def measure(network: SceneDenoiser, count: int) -> dict[str, dict[str, object]]:
    """Judge the images of each sampler, the reference first."""
    asked, found, reference = shown(count, seed=5), {}, None
    for name, (sampler, steps) in SAMPLERS.items():
        images, seconds = draw(network, asked.words, sampler, steps)
        accuracy = judged(images, asked.scenes)
        reference = reference or accuracy
        found[name] = {
            "forwards": steps,
            "cpu_seconds_per_image": round(seconds, 4),
            "parts": figures(accuracy.parts, reference.parts),
            "whole": figures(accuracy.whole, reference.whole),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def main() -> None:
    """Train the network, measure the samplers, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--captions", type=int, default=768)
    parser.add_argument("--out", type=Path, default=Path("runs/sampler-accuracy"))
    options = parser.parse_args()
    keep_large_buffers()
    options.out.mkdir(parents=True, exist_ok=True)
    build, ema, losses = train(options.steps)
    np.savez(options.out / "ema.npz", **{name: np.asarray(value) for name, value in ema.items()})
    trained_in = time.process_time()
    samplers = measure(build(ema), options.captions)
    report = {
        "benchmark": "sampler_accuracy",
        "steps": options.steps,
        "batch": BATCH,
        "captions": options.captions,
        "image_size": SIZE,
        "parameters": sum(one.size for one in ema.values()),
        "training_cpu_seconds": round(trained_in),
        "last_loss": round(float(np.mean(losses[-100:])), 4),
        "reference": REFERENCE,
        "target": TARGET,
        "samplers": samplers,
    }
    Path(__file__).with_name("results").joinpath("sampler_accuracy.json").write_text(
        json.dumps(report, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
