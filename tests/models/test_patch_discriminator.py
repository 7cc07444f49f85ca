import jax
import numpy as np
from flax import nnx

from dalle_jax.models.patch_discriminator import Discriminator, DiscriminatorBatchNorm, DiscriminatorConfig


def test_the_discriminator_has_the_published_widths_and_one_logit_per_patch():
    model = nnx.eval_shape(lambda: Discriminator(DiscriminatorConfig(), rngs=nnx.Rngs(0)))
    shapes = [conv.kernel.shape for conv in model.convs]
    assert shapes == [(4, 4, 3, 64), (4, 4, 64, 128), (4, 4, 128, 256), (4, 4, 256, 512), (4, 4, 512, 1)]
    assert [conv.bias is not None for conv in model.convs] == [True, False, False, False, True]
    small = Discriminator(DiscriminatorConfig(width=4, layers=2), rngs=nnx.Rngs(0))
    assert small(jax.numpy.zeros((2, 32, 32, 3))).shape == (2, 6, 6, 1)


def test_batch_norm_standardises_each_channel_over_the_batch():
    norm = DiscriminatorBatchNorm(3, "float32", rngs=nnx.Rngs(0))
    y = norm(5.0 + 2.0 * jax.random.normal(jax.random.key(0), (4, 6, 6, 3)))
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), norm.scale[...], rtol=1e-4)


def test_a_bfloat16_discriminator_computes_in_bfloat16_from_float32_parameters():
    model = Discriminator(DiscriminatorConfig(width=4, layers=1, dtype="bfloat16"), rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jax.numpy.float32.dtype}
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    assert "bf16" in str(jax.make_jaxpr(lambda x: model(x))(images))
    plain = Discriminator(DiscriminatorConfig(width=4, layers=1), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(model(images), plain(images), atol=0.05)
