"""The README's image: the first captions of the demo's four fixed lists, CLIP's choice of 16, judged.

python docs/demo_image.py runs/demo docs/demo.png
"""

import sys
from pathlib import Path

from dalle_jax.evaluate.metrics.composition import DEFAULT_SPLITS, evaluation_captions
from dalle_jax.images.grid import grid
from dalle_jax.images.png import write_png
from dalle_jax.pipelines.load.pipeline import load_pipeline
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.scenes.judge import judge

COLUMNS = 6


def main(folder: str, out: str) -> None:
    """Sample and judge the images, and write the sheet."""
    pipeline = load_pipeline(Path(folder), batch=128)
    captions = [
        text for level in (1, 2) for split in DEFAULT_SPLITS for text in evaluation_captions(level, split, COLUMNS, 0)
    ]
    requests = [
        Request(text, RequestOptions(candidates=16, keep=1, temperature=0.7, guidance=1.5, seed=number % COLUMNS))
        for number, text in enumerate(captions)
    ]
    images = [drawn.pixels[0] for drawn in pipeline.draw(requests)]
    marks = [judge(image, text).right for image, text in zip(images, captions, strict=True)]
    write_png(Path(out), grid(images, columns=COLUMNS, captions=captions, marks=marks, scale=4))
    print(f"{sum(marks)} of {len(marks)} are right")


if __name__ == "__main__":
    main(*sys.argv[1:])
