import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.sampling.guidance import guide


def test_guidance_extrapolates_from_the_unconditional_logits_per_prompt():
    conditional, unconditional = jax.random.normal(jax.random.key(0), (2, 3, 2, 5))
    out = guide(conditional, unconditional, jnp.array([0.0, 1.0, 3.0]))
    np.testing.assert_array_equal(out[0], unconditional[0])
    np.testing.assert_array_equal(out[1], conditional[1])
    np.testing.assert_allclose(out[2], 3 * conditional[2] - 2 * unconditional[2], rtol=1e-4, atol=1e-5)
