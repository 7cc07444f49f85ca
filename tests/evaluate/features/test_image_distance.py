import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import ImageDistance
from dalle_jax.evaluate.features.image_distance import LpipsDistance, check_pairs
from dalle_jax.evaluate.metrics.image_pairs import diversity
from dalle_jax.models.lpips import Lpips, LpipsConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules

VGG = LpipsConfig(widths=(4, 4, 4, 4, 4), depths=(1, 1, 1, 1, 1))


@pytest.fixture(scope="module")
def network():
    return Lpips(VGG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def distance(network):
    return LpipsDistance(network, batch=4)


def images(seed, count=5, side=16):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def test_distances_are_those_of_the_network_for_any_number_of_pairs(network, distance):
    one, other = images(0), images(1)
    graph, state = nnx.split(network)
    expected = jax.jit(lambda state, *pair: nnx.merge(graph, state)(*pair))(state, one / 127.5 - 1, other / 127.5 - 1)
    found = distance.distance(one, other)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(distance.distance(one, one), 0)
    assert isinstance(distance, ImageDistance) and distance.distance(one[:0], other[:0]).shape == (0,)


def test_eight_devices_give_the_distances_and_the_diversity_of_one(network, distance):
    sharded = LpipsDistance(network, Layout(make_mesh(Mesh(data=8)), Rules()), batch=4)
    assert sharded.batch == 8
    np.testing.assert_allclose(sharded.distance(images(0), images(1)), distance.distance(images(0), images(1)), 1e-6)
    candidates = images(2, count=9).reshape(3, 3, 16, 16, 3)
    np.testing.assert_allclose(diversity(candidates, sharded), diversity(candidates, distance), 1e-6)


def test_images_that_cannot_be_compared_are_one_line(distance):
    with pytest.raises(UserError, match=r"expected pairs of one size, got \[5, 16, 16, 3\] and \[4, 16, 16, 3\]"):
        check_pairs(images(0), images(1, count=4), 16, "lpips-vgg16")
    with pytest.raises(UserError, match=r"expected at least 16 px a side for lpips-vgg16 sha256:.*, got 15 x 15 px"):
        distance.distance(images(0, side=15), images(1, side=15))


def test_alexnet_needs_larger_images():
    alexnet = LpipsDistance(Lpips(dataclasses.replace(VGG, backbone="alexnet"), rngs=nnx.Rngs(0)), batch=1)
    with pytest.raises(UserError, match="expected at least 31 px a side for lpips-alexnet"):
        alexnet.distance(images(0, 1, 30), images(1, 1, 30))
    assert np.isfinite(alexnet.distance(images(0, 1, 31), images(1, 1, 31))).all()
