"""The first captions of each fixed list of a demo on scenes, CLIP's choice of 16, judged.

python docs/demo_image.py runs/demo docs/demo.png
python docs/demo_image.py runs/scenes_32 docs/scenes_32.png --levels 1 2 3 4 5 6 --captions 3
"""

import argparse
from pathlib import Path

from dalle_jax.evaluate.metrics.composition import DEFAULT_SPLITS, evaluation_captions
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.scenes.judge import judge

COLUMNS = 6


def main() -> None:
    """Sample and judge the images, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--captions", type=int, default=COLUMNS, help="captions of each list")
    args = parser.parse_args()
    pipeline = load_pipeline(args.folder, batch=128)
    lists = [(level, split) for level in args.levels for split in DEFAULT_SPLITS]
    captions = [text for level, split in lists for text in evaluation_captions(level, split, args.captions, 0)]
    requests = [
        Request(text, RequestOptions(candidates=16, keep=1, temperature=0.7, guidance=1.5, seed=number % args.captions))
        for number, text in enumerate(captions)
    ]
    images = [drawn.pixels[0] for drawn in pipeline.draw(requests)]
    marks = [judge(image, text).right for image, text in zip(images, captions, strict=True)]
    write_png(args.out, grid(images, columns=COLUMNS, captions=captions, marks=marks, scale=4))
    print(f"{sum(marks)} of {len(marks)} are right")


if __name__ == "__main__":
    main()
