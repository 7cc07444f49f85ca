import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.losses.quantization import commitment, entropy_loss, reconstruction


def test_the_commitment_loss_has_a_gradient_to_the_encoder_only():
    x, e = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])
    assert float(commitment(x, e)) == 2.5
    to_x, to_e = jax.grad(commitment, argnums=(0, 1))(x, e)
    np.testing.assert_allclose(to_x, [[1, -2]])
    np.testing.assert_array_equal(to_e, 0)


def test_reconstruction_mixes_absolute_and_squared_errors():
    pixels, drawn = jnp.zeros((1, 1, 2, 1)), jnp.array([[[[2.0], [-1.0]]]])
    assert float(reconstruction(pixels, drawn, absolute=1.0, squared=0.0)) == 1.5
    assert float(reconstruction(pixels, drawn, absolute=2.0, squared=10.0)) == 2 * 1.5 + 10 * 2.5


def test_the_entropy_loss_is_least_if_each_row_is_certain_and_all_codes_are_used():
    sure = 50.0 * (1.0 - jnp.eye(4))
    np.testing.assert_allclose(entropy_loss(sure, 1.0), -np.log(4), atol=1e-3)
    np.testing.assert_allclose(entropy_loss(jnp.zeros((4, 4)), 1.0), 0.0, atol=1e-3)  # each row is uniform
    np.testing.assert_allclose(
        entropy_loss(jnp.tile(sure[:1], (4, 1)), 1.0), 0.0, atol=1e-3
    )  # all rows choose one code
    np.testing.assert_allclose(entropy_loss(sure / 50, 0.02), entropy_loss(sure, 1.0), rtol=1e-5)
