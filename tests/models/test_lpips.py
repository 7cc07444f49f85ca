import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.models.lpips import SCALE, SHIFT, Lpips, LpipsConfig

SMALL = LpipsConfig(widths=(4, 6), depths=(1, 2))


def test_the_distance_of_an_image_to_itself_is_zero_with_a_finite_gradient():
    model = Lpips(SMALL, rngs=nnx.Rngs(0))
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1.0)
    distance = nnx.jit(lambda model, x, y: model(x, y))
    np.testing.assert_array_equal(distance(model, x, x), 0.0)
    far, near = distance(model, x, -x), distance(model, x, x + 0.01)
    assert bool((far > near).all()) and bool((near > 0).all())
    black = jnp.broadcast_to(jnp.asarray(SHIFT), x.shape)  # all its features are 0
    assert bool(jnp.isfinite(jax.jit(jax.grad(lambda y: model(x, y).sum()))(black)).all())


def test_the_distance_is_the_weighted_squared_difference_of_normalised_features():
    model = Lpips(SMALL, rngs=nnx.Rngs(0))
    model.weights[1][...] = jnp.arange(6.0)
    x, y = (jax.random.uniform(jax.random.key(seed), (1, 8, 8, 3), minval=-1.0) for seed in (0, 1))

    def layers(values):
        first = jax.nn.relu(model.groups[0][0]((values - SHIFT) / SCALE))
        pooled = first.reshape(1, 4, 2, 4, 2, 4).max((2, 4))
        return first, jax.nn.relu(model.groups[1][1](jax.nn.relu(model.groups[1][0](pooled))))

    expected = 0.0
    for weight, one, other in zip((np.full(4, 0.25), np.arange(6.0)), layers(x), layers(y), strict=True):
        one, other = (np.asarray(f) / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in (one, other))
        expected += ((one - other) ** 2 * weight).sum(-1).mean()
    np.testing.assert_allclose(model(x, y)[0], expected, rtol=1e-4)


def test_the_default_sizes_are_those_of_vgg_16():
    model = nnx.eval_shape(lambda: Lpips(LpipsConfig(), rngs=nnx.Rngs(0)))
    assert [len(group) for group in model.groups] == [2, 2, 3, 3, 3]
    assert [group[0].kernel.shape[2:] for group in model.groups] == [
        (3, 64), (64, 128), (128, 256), (256, 512), (512, 512)
    ]  # fmt: skip
