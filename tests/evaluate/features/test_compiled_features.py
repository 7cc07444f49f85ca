import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.compiled_features import (
    CompiledClassifier,
    Extraction,
    Preparation,
    check_images,
    weights_fingerprint,
)
from dalle_jax.evaluate.features.feature_extractor import ClassProbabilities, FeatureExtractor
from dalle_jax.layers.linear import Linear
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules


@pytest.fixture(scope="module")
def extraction():
    network = Linear(12, 5, axes=(None, None), rngs=nnx.Rngs(0))
    return Extraction(
        network=network,
        label="linear",
        fingerprint=weights_fingerprint(network),
        width=5,
        preparation=Preparation("corner-2", lambda images: images[:, :2, :2] / 255),
        extract=lambda net, values: net(values.reshape(len(values), -1)),
        probabilities=lambda net, features: jax.nn.softmax(features[:, :3], axis=-1),
    )


@pytest.fixture(scope="module")
def compiled(extraction):
    return CompiledClassifier(extraction, batch=4)


def images(count, side=3):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def by_hand(extraction, pixels):
    kernel, bias = extraction.network.kernel[...], extraction.network.bias[...]
    return (pixels[:, :2, :2] / 255).reshape(len(pixels), 12) @ np.asarray(kernel) + np.asarray(bias)


def test_a_compiled_network_is_both_protocols(compiled):
    assert isinstance(compiled, FeatureExtractor) and isinstance(compiled, ClassProbabilities)


@pytest.mark.parametrize("count", [1, 4, 21, 0])
def test_features_of_any_number_of_images_are_those_of_one_batch_shape(extraction, compiled, count):
    found = compiled.features(images(count))
    assert found.shape == (count, 5) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(extraction, images(count)), atol=1e-6)
    assert compiled._extract.compiles() == 1


def test_images_of_a_second_size_do_not_compile_the_network_again(extraction, compiled):
    np.testing.assert_allclose(compiled.features(images(2, 7)), by_hand(extraction, images(2, 7)), atol=1e-6)
    assert compiled._extract.compiles() == 1


def test_devices_share_the_rows_and_give_the_same(extraction, compiled):
    layout = Layout(make_mesh(Mesh(data=8)), Rules())
    sharded = CompiledClassifier(extraction, layout, batch=4)
    assert sharded.batch == 8
    np.testing.assert_allclose(sharded.features(images(21)), compiled.features(images(21)), atol=1e-6)
    np.testing.assert_allclose(sharded.probabilities(images(21)), compiled.probabilities(images(21)), atol=1e-6)


def test_probabilities_follow_from_features(compiled):
    features = compiled.features(images(5))
    found = compiled.probabilities(images(5))
    np.testing.assert_array_equal(found, compiled.probabilities_of_features(features))
    expected = np.exp(features[:, :3]) / np.exp(features[:, :3]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_name_says_the_network_its_weights_and_the_preparation(extraction, compiled):
    assert compiled.name == f"linear sha256:{extraction.fingerprint[:12]} corner-2"
    other = Linear(12, 5, axes=(None, None), rngs=nnx.Rngs(1))
    assert weights_fingerprint(other) != extraction.fingerprint


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 3, 3)), np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.uint8)])
def test_arrays_that_are_no_images_are_refused(wrong):
    with pytest.raises(UserError, match=r"images: expected uint8 \[B H W 3\], got (float64|uint8)\["):
        check_images(wrong)
