import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.losses.logit_laplace import map_pixels, negative_log_likelihood, unmap_pixels


def test_the_likelihood_integrates_to_one():
    x = jnp.linspace(1e-6, 1 - 1e-6, 400_001)
    for mean, log_scale in ((0.0, 0.0), (1.5, -1.0), (-0.7, -0.4)):
        density = jnp.exp(-negative_log_likelihood(x, jnp.full(x.shape, mean), jnp.full(x.shape, log_scale)))
        np.testing.assert_allclose(np.trapezoid(density, x), 1.0, atol=2e-3)


def test_the_likelihood_equals_the_formula_of_the_paper():
    x, mean, b = 0.3, 0.4, 0.7
    expected = -np.log(1 / (2 * b * x * (1 - x)) * np.exp(-abs(np.log(x / (1 - x)) - mean) / b))
    found = negative_log_likelihood(jnp.float32(x), jnp.float32(mean), jnp.log(jnp.float32(b)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unmapping_inverts_mapping_and_the_likelihood_is_largest_at_the_pixels_own_logit():
    pixels = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(map_pixels(pixels)[jnp.array([0, 10])], [0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(unmap_pixels(map_pixels(pixels)), pixels, atol=1e-6)
    logits = jax.scipy.special.logit(map_pixels(pixels))
    at_best = negative_log_likelihood(map_pixels(pixels), logits, jnp.zeros(11))
    for off in (-0.1, 0.1):
        assert bool((negative_log_likelihood(map_pixels(pixels), logits + off, jnp.zeros(11)) > at_best + 0.05).all())
