"""Run in each process of a run: print the figures of the scores that all processes measured, as JSON.

These are the metrics without a reference: means of scores of each image (CLIPScore, retrieval, PSNR, SSIM, MS-SSIM,
LPIPS and its diversity) and the Inception Score; and CMMD. A process measures every image whose number leaves the
remainder of its index.
"""

import json

import numpy as np

from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.inception_score import ClassRows, InceptionScore
from dalle_jax.evaluate.metrics.distributions.kernel_distance import ClipDiscrepancy
from dalle_jax.evaluate.metrics.metric import merge_over_hosts
from dalle_jax.evaluate.metrics.score_means import ScoreMeans, Scores
from dalle_jax.parallel import hosts

COUNT, CLASSES, WIDTH = 200, 7, 6
NAMES = ("clip_score", "retrieval_top1", "psnr", "ssim", "ms_ssim", "lpips", "lpips_diversity")


def figures(process: int, processes: int, batch: int) -> dict[str, list[float]]:
    """Return value, interval and count of each figure, by its name, of the images of all processes together."""
    rng = np.random.default_rng(0)
    scores = {name: rng.gamma(2.0, size=COUNT) for name in NAMES}
    powers = np.exp(3 * rng.normal(size=(COUNT, CLASSES)))
    classes = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    rows = rng.normal(size=(2, COUNT, WIDTH)).astype(np.float32) + np.array([0.0, 0.5], np.float32)[:, None, None]

    means, score = ScoreMeans(NAMES, "given"), InceptionScore("given", CLASSES)
    sides = [FeatureSet("given", WIDTH) for _ in rows]
    own = np.arange(process, COUNT, processes)
    for start in range(0, len(own), batch):
        part = own[start : start + batch]
        means.update(Scores(part, {name: one[part] for name, one in scores.items()}))
        score.update(ClassRows(part, classes[part]))
        for side, features in zip(sides, rows, strict=True):
            side.update(FeatureRows(part, features[part]))
    merged = [merge_over_hosts(side) for side in sides]
    found = (
        *merge_over_hosts(means).result(),
        *merge_over_hosts(score).result(),
        *ClipDiscrepancy().compare(*merged),
    )
    return {one.name: [one.value, *(one.interval or ()), one.count, one.noise or 0.0] for one in found}


if __name__ == "__main__":
    hosts.join()
    print(json.dumps(figures(*hosts.process_index_and_count(), batch=17)))
