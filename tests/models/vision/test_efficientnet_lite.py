import numpy as np

from dalle_jax.models.vision.efficientnet_lite import EfficientNetLiteConfig
from dalle_jax.pretrained.publishers.vision.efficientnet_weights import network_rules
from tests.wave_weights import counted_pixels, run_once, wave_network

SMALL = EfficientNetLiteConfig(
    image_size=16, stem=8, widths=(8, 16), depths=(1, 2), kernels=(3, 5), strides=(1, 2), expansions=(1, 6),
    features=12, classes=5,
)  # fmt: skip
BY_REFERENCE = np.array([
    [0.09863, 0.27401, 0.40063, 0.05688, 0.0, 0.31358, 1.14460, 0.99997, 0.0, 0.03497, 0.24293, 0.44674],
    [0.03873, 0.30575, 0.31377, 0.07728, 0.0, 0.32503, 1.13020, 0.76064, 0.0, 0.00229, 0.27064, 0.39400],
])  # fmt: skip
CLASSES_BY_REFERENCE = np.array([
    [0.30204, 0.14345, 0.16736, 0.24297, 0.14419], [0.29091, 0.15652, 0.16011, 0.23521, 0.15725]
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
