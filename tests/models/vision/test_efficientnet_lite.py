import numpy as np

from dalle_jax.models.vision.efficientnet_lite import EfficientNetLiteConfig
from dalle_jax.pretrained.publishers.vision.efficientnet_weights import network_rules
from tests.wave_weights import counted_pixels, run_once, wave_network

SMALL = EfficientNetLiteConfig(
    image_size=16, stem=8, widths=(8, 16), depths=(1, 2), kernels=(3, 5), strides=(1, 2), expansions=(1, 6),
    features=12, classes=5,
)  # fmt: skip
BY_REFERENCE = np.array([
    [1.22127, 0.36454, 0.0, 0.40694, 2.20821, 0.9031, 0.48308, 0.0, 1.12997, 1.52896, 0.05602, 0.0],
    [1.23838, 0.38202, 0.0, 0.38299, 2.20929, 0.92101, 0.49191, 0.0, 1.12134, 1.54072, 0.06263, 0.0],
])  # fmt: skip
CLASSES_BY_REFERENCE = np.array([
    [0.10622, 0.13123, 0.50659, 0.08446, 0.17151], [0.10478, 0.13016, 0.50623, 0.08517, 0.17365]
])  # fmt: skip
"""The pooled features and probabilities that efficientnet-lite-pytorch 0.1.0 gives for the same weights and images."""


def test_features_and_probabilities_are_those_of_the_reference():
    network = wave_network(SMALL, network_rules)

    def both(net, pixels):
        features = net.features(pixels)
        return features, net.probabilities(features)

    features, classes = run_once(network, both, counted_pixels(2, 16).astype(np.float32))
    np.testing.assert_allclose(features, BY_REFERENCE, atol=1e-5)
    np.testing.assert_allclose(classes, CLASSES_BY_REFERENCE, atol=1e-5)
