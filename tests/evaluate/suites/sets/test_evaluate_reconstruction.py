"""An image tokenizer's figures are those of each pair, and several processes give those of one."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.image_pairs import ssim
from dalle_jax.evaluate.metrics.reconstruction import psnr
from dalle_jax.evaluate.report.evaluation_page import evaluation_page
from dalle_jax.evaluate.suites.image_sets import NumberedImages
from dalle_jax.evaluate.suites.sets.evaluate_reconstruction import EvaluateReconstruction, evaluate_reconstruction
from tests.evaluate.suites.image_files import MeanColours, MeanDistance

IMAGES = np.random.default_rng(0).integers(0, 256, (120, 12, 12, 3), np.uint8)
CONFIG = EvaluateReconstruction(distances=("fd", "kid"), shown=3)


class Rounding:
    """A tokenizer that keeps the upper bits of a pixel, and fewer of them in image number 5."""

    def reconstruct(self, pixels):
        bits = np.where((pixels == IMAGES[5]).all(axis=(1, 2, 3)), 64, 16)[:, None, None, None]
        return (pixels // bits * bits).astype(np.uint8)


def batches(size=50, numbers=range(120)):
    listed = list(numbers)
    for start in range(0, len(listed), size):
        part = np.array(listed[start : start + size])
        yield NumberedImages(part, IMAGES[part], tuple((f"image {n}",) for n in part))


def measured(*given, lpips=None, **options):
    lines = []
    networks = {"mean-colours": MeanColours()}
    found = evaluate_reconstruction("t", *given, Rounding(), networks, lpips, CONFIG, lines.append, **options)
    return found, lines


def test_figures_are_those_of_the_pairs_and_the_worst_pair_is_first():
    found, lines = measured(batches(), lpips=MeanDistance())
    copies = Rounding().reconstruct(IMAGES)
    content = found.to_json()
    for name, scores in (("psnr", psnr(IMAGES, copies)), ("ssim", ssim(IMAGES, copies))):
        one = content["pairs"][name]
        assert one["value"] == pytest.approx(scores.mean()) and one["count"] == 120
        assert one["interval_95"][0] < one["value"] < one["interval_95"][1]
    assert content["pairs"]["lpips"]["features"] == "mean-grey none"
    assert content["mean-colours"].keys() >= {"rfd", "kid"} and content["mean-colours"]["rfd"]["value"] > 0
    worst = found.worst.images
    assert len(worst) == 3 and worst[0].caption == "image 5"
    np.testing.assert_array_equal(worst[0].image[:12], IMAGES[5])
    np.testing.assert_array_equal(worst[0].image[-12:], copies[5])
    page = evaluation_page("t", "x.json", {"images": found.panel()})
    assert all(f'data-path="images/{path}/value"' in page for path in ("pairs/psnr", "mean-colours/rfd"))
    assert [line.partition(" ")[0] for line in lines[-3:]] == ["pairs:", "mean-colours:", "MS-SSIM"]


def test_without_weights_lpips_is_a_line_and_merging_changes_nothing():
    found, lines = measured(batches(7), merge=True)
    assert "lpips" not in found.to_json()["pairs"] and any("LPIPS is not measured" in one for one in lines)
    alone = measured(batches())[0]
    for one, other in zip(
        (*found.pairs, *found.by_features["mean-colours"]),
        (*alone.pairs, *alone.by_features["mean-colours"]),
        strict=True,
    ):
        assert (one.name, one.count, one.value) == (other.name, 120, pytest.approx(other.value, rel=1e-9))
    assert [one.caption for one in found.worst.images] == [one.caption for one in alone.worst.images]


def test_no_images_and_too_few_are_one_line():
    with pytest.raises(UserError, match="t: expected images to reconstruct, got none"):
        measured(batches(numbers=()))
    with pytest.raises(UserError, match=r"fd: expected at least 13 reference images, .* got 10"):
        measured(batches(numbers=range(10)))
