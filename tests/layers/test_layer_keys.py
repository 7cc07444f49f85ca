import jax
import numpy as np
from flax import nnx

from dalle_jax.layers.layer_keys import LayerKeys, rngs_of


def test_layer_keys_are_the_keys_of_nnx():
    theirs, ours = nnx.Rngs(jax.random.key(5)), rngs_of(LayerKeys(jax.random.key(5)))
    for _ in range(3):
        np.testing.assert_array_equal(*(jax.random.key_data(one.params()) for one in (theirs, ours)))
