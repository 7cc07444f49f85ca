"""An upsampler beside bicubic enlargement on scenes: PSNR, and the share that the scenes' reader finds right.

    python benchmarks/upsampler_accuracy.py --upsampler runs/demo-unclip/upsampler \
        --decoder runs/demo-unclip/pixel-decoder --prior runs/demo-unclip/prior

Scenes of captions of levels 1 and 2 are rendered, reduced by the upsampler's factor, and enlarged again: bicubically,
by the upsampler, and by the upsampler in overlapping tiles (the first ``--tiled`` captions of a cell). With a decoder,
images that it draws of captions of level 1 are enlarged too. It prints JSON; ``--sheet`` writes the first images.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.diffusion.tiles import Tiles
from dalle_jax.diffusion.trained_diffusion import from_pixels, to_pixels
from dalle_jax.evaluate.metrics.composition import SPLITS, Split, evaluation_captions, level_name
from dalle_jax.evaluate.metrics.reconstruction import measure_reconstruction
from dalle_jax.evaluate.metrics.shares import share_of
from dalle_jax.images.grid import grid
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.images.png import write_png
from dalle_jax.models.decoders.upsampler import Upsampler, enlarged, reduced
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.load.models import load_upsampler, read_model_file
from dalle_jax.pipelines.load.pixel_unclip_pipeline import load_pixel_unclip
from dalle_jax.pipelines.pixel_sampling import upsample_pixels
from dalle_jax.pipelines.pixel_unclip import PixelSampling
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.scenes import grammar
from dalle_jax.scenes.judge import judge
from dalle_jax.scenes.rendering import render

LEVELS, SAMPLING, TOGETHER, SHOWN = (1, 2), PixelSampling().upsamplers[0], 8, 8
Images = UInt8[np.ndarray, "B H W 3"]
Enlarge = Callable[[Images], Images]


def upsampling(upsampler: Upsampler, tiles: Tiles | None) -> Enlarge:
    """Return the upsampler's enlargement, by the pipeline's sampling of a first upsampler."""

    def sample(network: Upsampler, images: jax.Array, keys: jax.Array) -> jax.Array:
        return to_uint8(upsample_pixels(network, to_float(images), keys, SAMPLING, tiles=tiles))

    call = CompiledNetwork(upsampler, None).jit(sample)

    def enlarge(images: Images) -> Images:
        keys = jax.random.split(jax.random.key(0), len(images))
        padded = np.minimum(np.arange(-(-len(images) // TOGETHER) * TOGETHER), len(images) - 1)
        calls = [np.asarray(call(jnp.asarray(images[rows]), keys[rows])) for rows in padded.reshape(-1, TOGETHER)]
        return np.concatenate(calls)[: len(images)]

    return enlarge


def bicubic(images: Images, factor: int) -> Images:
    """Enlarge images as the upsampler's input is enlarged."""
    return np.asarray(to_uint8(to_pixels(enlarged(from_pixels(to_float(jnp.asarray(images))), factor))))


def rendered(captions: tuple[str, ...], side: int, level: int) -> Images:
    """Render one image of each caption."""
    rng = np.random.default_rng((5, level))
    return np.stack([render(grammar.parse(one), side, rng) for one in captions])


def drawn(decoder: Path, prior: Path | None, captions: tuple[str, ...], guidance: float) -> Images:
    """Draw one image of each caption with a pixel decoder, from the prior's vectors."""
    needs = {"decoder": str(decoder), **read_model_file(decoder).needs}
    needs |= {} if prior is None else {"prior": str(prior)}
    requests = [
        Request(caption, RequestOptions(candidates=1, guidance=guidance, seed=seed))
        for seed, caption in enumerate(captions)
    ]
    return np.stack([one.candidates[0] for one in load_pixel_unclip(needs).draw(requests)])


def main() -> None:
    """Enlarge, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upsampler", type=Path, required=True)
    parser.add_argument("--side", type=int, default=64, help="the side of an enlarged image")
    parser.add_argument("--captions", type=int, default=80, help="captions of each level and split")
    parser.add_argument("--tiled", type=int, default=16, help="those of them that are also sampled in tiles")
    parser.add_argument("--decoder", type=Path, help="a pixel decoder of the low resolution")
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sheet", type=Path, help="a PNG to write: rows of low, bicubic, upsampled and true images")
    args = parser.parse_args()
    began, upsampler = time.monotonic(), load_upsampler(args.upsampler)
    factor = upsampler.config.factor
    whole = upsampling(upsampler, None)
    in_tiles = upsampling(upsampler, Tiles(side=args.side * 5 // 8, overlap=args.side // 4))
    found: dict[str, object] = {}
    shown: list[Images] = []
    for level in LEVELS:
        for split in SPLITS:
            captions = evaluation_captions(level, split, args.captions, 0)
            true = rendered(captions, args.side, level)
            low = np.asarray(to_uint8(reduced(to_float(jnp.asarray(true)), factor)))
            copies = {"bicubic": bicubic(low, factor), "upsampled": whole(low)}
            if args.tiled:
                copies["in_tiles"] = in_tiles(low[: args.tiled])
            found[f"{level_name(level)}.{split}"] = {
                name: measured(true, images, captions, level) for name, images in {**copies, "true": true}.items()
            }
            shown += [one[:SHOWN] for one in (bare(low, factor), copies["bicubic"], copies["upsampled"], true)]
    if args.decoder is not None:
        for split in SPLITS:
            found[f"decoder.{split}"] = behind_decoder(args, split, whole, factor, shown)
    if args.sheet is not None:
        write_png(args.sheet, grid(list(np.concatenate(shown)), SHOWN))
    print(json.dumps({"found": found, "captions": args.captions, "seconds": round(time.monotonic() - began)}))


def measured(true: Images, images: Images, captions: tuple[str, ...], level: int) -> dict[str, float | None]:
    """Return the PSNR of copies of the first scenes, and the share that the reader finds right."""
    count = len(images)
    of = measure_reconstruction(true[:count], images, captions[:count], [level] * count)
    return {"psnr": round(of.psnr, 2), "right": of.still_right[level].value, "count": count}


def behind_decoder(
    args: argparse.Namespace, split: Split, enlarge: Enlarge, factor: int, shown: list[Images]
) -> dict[str, float | None]:
    """Return the shares of a decoder's images that show their caption, before and after enlargement."""
    captions = evaluation_captions(1, split, args.captions, 0)
    low = drawn(args.decoder, args.prior, captions, args.guidance)
    rows = {"low": low, "bicubic": bicubic(low, factor), "upsampled": enlarge(low)}
    shown += [one[:SHOWN] for one in (bare(low, factor), rows["bicubic"], rows["upsampled"])]
    return {
        name: share_of(judge(image, caption).right for image, caption in zip(images, captions, strict=True)).value
        for name, images in rows.items()
    }


def bare(images: Images, factor: int) -> Images:
    """Repeat each pixel, to show images of low resolution beside the others."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


if __name__ == "__main__":
    main()
