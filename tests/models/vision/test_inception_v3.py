import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.images.tensorflow_resize import resize_like_tensorflow1
from dalle_jax.models.vision.inception_v3 import InceptionV3Config, pool
from dalle_jax.pretrained.publishers.vision.inception_weights import network_rules
from tests.wave_weights import noise_and_dark_noise, run_once, wave_network

SMALL = InceptionV3Config(unit=1, classes=5)
VECTOR_3_BY_REFERENCE = np.array([
    [0.0, 0.0, 0.19167, 0.27302, 0.0, 0.47597], [0.0, 0.0, 0.19183, 0.27304, 0.0, 0.47606]
])  # fmt: skip
CLASSES_BY_REFERENCE = np.array([
    [0.1495, 0.2702, 0.23418, 0.16108, 0.18504], [0.14948, 0.27021, 0.23419, 0.16107, 0.18505]
])  # fmt: skip
"""The first six entries that torch-fidelity 0.4's network of a sixteenth of the channels gives, for images of 75 px."""


def test_features_and_probabilities_are_those_of_the_reference():
    network = wave_network(SMALL, lambda config: network_rules())

    def all_of_it(net, images):
        last = net.features(resize_like_tensorflow1(images, 75))
        return last, net.probabilities(last)

    last, classes = run_once(network, all_of_it, noise_and_dark_noise(20))
    np.testing.assert_allclose(last[:, :6], VECTOR_3_BY_REFERENCE, atol=1e-5)
    np.testing.assert_allclose(classes, CLASSES_BY_REFERENCE, atol=1e-5)


@pytest.mark.parametrize("pooling", ["average", "maximum", "maximum_strided"])
def test_pooling_is_that_of_each_window_without_what_is_outside(pooling):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    stride = 2 if pooling == "maximum_strided" else 1
    starts = [range(0, side - 2, 2) if stride == 2 else range(-1, side - 1) for side in x.shape[1:3]]
    reduce = np.mean if pooling == "average" else np.max
    expected = [[reduce(x[:, max(i, 0) : i + 3, max(j, 0) : j + 3], (1, 2)) for j in starts[1]] for i in starts[0]]
    np.testing.assert_allclose(pool(jnp.asarray(x), pooling), np.moveaxis(expected, 2, 0), atol=1e-6)
