"""Cost of int8 weights and of a bfloat16 cache: accuracy and nats of a demo's transformer, on scenes.

    python benchmarks/reduced_precision.py --model runs/demo

For each choice it prints the bytes of the weights, the nats per code of held-out scenes by cached steps, and the share
of first candidates that show all of their caption. ``--guidance 1`` measures a transformer that needs no guidance.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.evaluate.metrics.composition import SPLITS, evaluation_captions, measure_cell
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.code_generator import CodeGenerator, Reduced
from dalle_jax.pipelines.load.models import load_generator, stage_folders
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.text_to_image import TextToImage

CHOICES = {
    "as trained": Reduced(),
    "int8 weights": Reduced(weights="int8"),
    "bfloat16 cache": Reduced(cache="bfloat16"),
    "both": Reduced("int8", "bfloat16"),
}
LEVELS = (1, 2)


def nats_per_code(pipeline: TextToImage, generator: CodeGenerator, images: int) -> float:
    """Return the nats per code of held-out scenes, from a prefill and a cached step per code."""
    source = Scenes(size=pipeline.side, levels=LEVELS, count=images, seed=1, split="validation").open()
    examples = [source[index] for index in range(images)]
    text = jnp.asarray(pipeline.prompts.read([one["captions"][0] for one in examples]))
    codes = jnp.asarray(pipeline.codec.encode(np.stack([one["image"] for one in examples]))).reshape(images, -1)
    graph, state = nnx.split(generator)

    @jax.jit
    def nats(state: nnx.State, text: jax.Array, codes: jax.Array) -> jax.Array:
        network, length = nnx.merge(graph, state), codes.shape[1]
        first, cache = network.prefill(text, 1)

        def step(cache: object, position: jax.Array) -> tuple[object, jax.Array]:
            logits, cache = network.decode(codes[:, position - 1, None], position, cache)
            return cache, cross_entropy(logits[:, 0], codes[:, position])

        _, rest = jax.lax.scan(step, network.grow(cache, length - 1), jnp.arange(1, length))
        return (cross_entropy(first, codes[:, 0]).sum() + rest.sum()) / codes.size

    return float(nats(state, text, codes))


def first_right(pipeline: TextToImage, captions: int, guidance: float) -> dict[str, float]:
    """Return the share of first candidates that show their caption, for each level and split."""
    found = {}
    for level in LEVELS:
        for split in SPLITS:
            texts = evaluation_captions(level, split, captions, 0)
            options = RequestOptions(candidates=1, temperature=0.7, guidance=guidance)
            images = np.stack([one.candidates[0] for one in pipeline.draw([Request(text, options) for text in texts])])
            cell, _ = measure_cell(level, split, texts, images[:, None], np.zeros((captions, 1), np.float32))
            found[f"level_{level}/{split}"] = round(cell.first.value, 4)
    return found


def main() -> None:
    """Measure each choice, and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=80)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=2.0)
    args = parser.parse_args()
    for name, reduced in CHOICES.items():
        pipeline = load_pipeline(args.model, batch=64, reduced=reduced)
        assert isinstance(pipeline, TextToImage)
        generator = load_generator(Path(stage_folders(args.model).needs["transformer"]), reduced=reduced)
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(generator)))
        nats, right = (
            nats_per_code(pipeline, generator, args.images),
            first_right(pipeline, args.captions, args.guidance),
        )
        print(json.dumps({"choice": name, "bytes": weights, "nats_per_code": nats, "first_right": right}), flush=True)


if __name__ == "__main__":
    main()
