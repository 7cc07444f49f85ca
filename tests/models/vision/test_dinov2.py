import dataclasses

import numpy as np
import pytest

from dalle_jax.models.vision.dinov2 import Dinov2Config, position_weights
from dalle_jax.pretrained.mapping import to_published
from dalle_jax.pretrained.publishers.vision.dinov2_weights import hugging_face_rules, network_rules
from tests.wave_weights import noise_and_dark_noise, run_once, wave_network

SMALL = Dinov2Config(width=64, layers=1, heads=1, grid=3, patch=2, image_size=8, position_resize="plain")
EVERY_EIGHTH_BY_REFERENCE = np.array([
    [0.4598, 1.16945, -2.03661, -0.90535, -0.57115, 1.13358, -0.48122, 0.57344],
    [0.16396, 1.24399, -0.48559, -1.43432, 1.64306, 1.59527, -2.9393, -0.12859],
])  # fmt: skip
"""Every eighth entry of the class token that Dinov2Model of transformers 5.24 gives for the same weights and images."""

BY_TORCH = {
    "offset": [
        [0.71412, 0.33473, -0.04885, 0.0, 0.0],
        [-0.00448, 0.06958, 0.98602, -0.05112, 0.0],
        [0.0, 0.0, -0.08734, 0.55106, 0.53627],
    ],
    "antialiased": [
        [0.58462, 0.44615, 0.0, -0.03077, 0.0],
        [-0.03721, 0.24651, 0.5814, 0.24651, -0.03721],
        [0.0, -0.03077, 0.0, 0.44615, 0.58462],
    ],
}
"""Rows of an identity that torch 2.13 resizes to 3, with scale_factor 3.1 / 5, and with antialias."""


def test_features_are_those_of_the_reference():
    network = wave_network(SMALL, hugging_face_rules)
    found = run_once(network, lambda net, pixels: net.features(pixels), noise_and_dark_noise(8).astype(np.float32))
    np.testing.assert_allclose(found[:, ::8], EVERY_EIGHTH_BY_REFERENCE, atol=2e-5)


@pytest.mark.parametrize("resize", BY_TORCH)
def test_positions_are_resized_as_torch_does_it(resize):
    config = Dinov2Config(width=64, layers=1, heads=1, grid=5, patch=2, image_size=6, position_resize=resize)
    np.testing.assert_allclose(position_weights(config), BY_TORCH[resize], atol=1e-5)


def test_a_grid_of_the_size_of_training_keeps_its_positions():
    config = dataclasses.replace(SMALL, image_size=6, position_resize="offset")
    np.testing.assert_array_equal(position_weights(config), np.eye(3))


def test_an_image_size_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match=r"image_size: expected a multiple of patch \(2 px\), got 7 px"):
        dataclasses.replace(SMALL, image_size=7)


def test_the_matrix_of_dinov2s_layout_is_the_three_of_hugging_faces():
    network = wave_network(SMALL, hugging_face_rules)
    theirs, other = to_published(network, network_rules(SMALL)), to_published(network, hugging_face_rules(SMALL))
    for end in ("weight", "bias"):
        names = [f"encoder.layer.0.attention.attention.{name}.{end}" for name in ("query", "key", "value")]
        joined = np.concatenate([other[name] for name in names])
        np.testing.assert_array_equal(theirs[f"blocks.0.attn.qkv.{end}"], joined)
        np.testing.assert_array_equal(
            theirs[f"blocks.0.attn.proj.{end}"], other[f"encoder.layer.0.attention.output.dense.{end}"]
        )
