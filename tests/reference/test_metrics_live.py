"""Metrics beside torch-fidelity 0.4 and torchmetrics 1.9, run live in an environment of their own.

DALLE_JAX_REFERENCE names its Python, which needs torch (the CPU build), scipy, torch-fidelity, torchmetrics and
lightning-utilities (all --no-deps).
"""

import numpy as np
import pytest

from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.inception_score import ClassRows, InceptionScore
from dalle_jax.evaluate.metrics.distributions.kernel_distance import KernelDistance
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares
from dalle_jax.evaluate.metrics.image_pairs import ms_ssim, ssim
from dalle_jax.evaluate.metrics.reconstruction import psnr
from tests.reference.live import by_reference

pytestmark = pytest.mark.reference
WIDTH, CLASSES = 96, 50
TOLERANCE = 1e-3
"""Relative difference: torch-fidelity's kernels and torchmetrics' scores are in float32."""


def relu_features(seed, count, shift, scale):
    """Return rows of falling variance, as of a network whose last layer is a ReLU."""
    mixing = np.random.default_rng(7).normal(size=(8, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.6
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 8)) @ mixing * scale + 0.02 * rng.normal(size=(count, WIDTH))
    return np.maximum(rows + shift, 0).astype(np.float32)


def feature_set(rows):
    out = FeatureSet("given", WIDTH)
    out.update(FeatureRows(np.arange(len(rows)), rows))
    return out


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    rng = np.random.default_rng(0)
    arrays = {
        "reference": relu_features(1, 1200, 0.2, 1.0),
        "generated": relu_features(2, 1500, 0.3, 1.1),
        "logits": (3 * rng.normal(size=(1000, CLASSES))).astype(np.float32),
    }
    folder = tmp_path_factory.mktemp("features")
    np.savez(folder / "in.npz", **arrays)
    return arrays, by_reference("metrics_by_torch.py", "features", folder / "in.npz", folder / "out.npz")


def test_fd_kid_precision_and_recall_are_those_of_torch_fidelity(given):
    arrays, wanted = given
    sets = feature_set(arrays["reference"]), feature_set(arrays["generated"])
    found = {
        one.name: one.value
        for metric in (FrechetDistance(with_noise=False), KernelDistance(), NeighbourShares())
        for one in metric.compare(*sets)
    }
    for name in ("fd", "kid_subsets", "precision", "recall"):
        assert found[name] == pytest.approx(float(wanted[f"fidelity.{name}"]), rel=TOLERANCE), name
    assert 0.01 < found["recall"] < 0.99 and 0.01 < found["precision"] < 0.99


def test_fd_and_kid_are_those_of_torchmetrics(given):
    arrays, wanted = given
    sets = feature_set(arrays["reference"]), feature_set(arrays["generated"][:1200])
    (fd,) = FrechetDistance(with_noise=False).compare(*sets)
    kid = KernelDistance(subsets=0).compare(*sets)[0]
    assert fd.value == pytest.approx(float(wanted["torchmetrics.fd"]), rel=TOLERANCE)
    assert kid.value == pytest.approx(float(wanted["torchmetrics.kid"]), rel=TOLERANCE)


def test_the_inception_score_is_that_of_both(given):
    arrays, wanted = given
    logits = arrays["logits"].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    score = InceptionScore("given", CLASSES, splits=1)
    score.update(ClassRows(np.arange(len(logits)), (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)))
    (found,) = score.result()
    for package in ("fidelity", "torchmetrics"):
        assert found.value == pytest.approx(float(wanted[f"{package}.is"]), rel=TOLERANCE), package


def test_similarities_of_pairs_are_those_of_torchmetrics(tmp_path):
    rng = np.random.default_rng(0)

    def pair(size):
        coarse = np.kron(rng.integers(0, 256, (2, size // 8, size // 8, 3)), np.ones((1, 8, 8, 1)))
        noisy = np.clip(coarse + rng.normal(scale=25, size=coarse.shape), 0, 255)
        return coarse.astype(np.uint8), noisy.astype(np.uint8)

    originals, copies = pair(64)
    large, large_copies = pair(192)
    np.savez(tmp_path / "in.npz", originals=originals, copies=copies, large=large, large_copies=large_copies)
    wanted = by_reference("metrics_by_torch.py", "pairs", tmp_path / "in.npz", tmp_path / "out.npz")
    np.testing.assert_allclose(ssim(originals, copies), wanted["ssim"], rtol=1e-6)
    np.testing.assert_allclose(psnr(originals, copies), wanted["psnr"], rtol=1e-6)
    np.testing.assert_allclose(ms_ssim(large, large_copies), wanted["ms_ssim"], rtol=1e-6)
