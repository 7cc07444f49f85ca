"""Codes of image vectors: principal components, each quantised to buckets (arXiv 2204.06125, section 2.2).

The paper states the components (319 of 1,024) and the buckets (1,024 each), but no procedure. Ours, in float64, on a
sample of the training vectors:

1. The components are the eigenvectors of the sample's covariance with the largest eigenvalues, in decreasing order.
   The largest entry of each is made positive, since an eigenvector's sign is arbitrary.
2. The buckets of a component have equal width and span the sample's least to greatest value. Others are clipped.
3. The buckets of the dot product z_i z_t hold equal shares of the sample, so a bucket is a rank.

B batch   E embedding   C components   K buckets   n sample
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.models.clip import unit
from dalle_jax.models.priors.prior import MeasuredStatistic, VectorSample


class PcaCodes(nnx.Module):
    """The conversion between image vectors of length 1 and codes. All of its variables are measured."""

    def __init__(self, embed_width: int, components: int, buckets: int):
        if not 1 <= components <= embed_width:
            raise ValueError(f"components: expected 1 to embed_width ({embed_width}), got {components}")
        self.buckets = buckets
        self.mean = MeasuredStatistic(jnp.zeros(embed_width), axes=(None,))
        self.basis = MeasuredStatistic(jnp.eye(embed_width, components), axes=(None, None))
        self.low = MeasuredStatistic(jnp.full(components, -1.0), axes=(None,))
        self.high = MeasuredStatistic(jnp.full(components, 1.0), axes=(None,))

    def measure(self, sample: VectorSample) -> None:
        """Store mean, components and ranges of a sample."""
        wide = sample.image.astype(np.float64)
        mean, count = wide.mean(axis=0), self.basis.shape[1]
        basis = np.linalg.eigh(np.cov(wide, rowvar=False, bias=True))[1][:, ::-1][:, :count]  # [E C]
        largest = basis[np.abs(basis).argmax(axis=0), np.arange(count)]
        basis = basis * np.where(largest < 0, -1.0, 1.0)
        values = (wide - mean) @ basis  # [n C]
        found = (mean, basis, values.min(axis=0), values.max(axis=0))
        for variable, value in zip((self.mean, self.basis, self.low, self.high), found, strict=True):
            variable[...] = jnp.asarray(value, jnp.float32)

    def encode(self, image: Float[Array, "B E"]) -> Int[Array, "B C"]:
        """Return the bucket of each component."""
        values = jnp.matmul(image - self.mean[...], self.basis[...], precision=jax.lax.Precision.HIGHEST)
        shares = (values - self.low[...]) / jnp.maximum(self.high[...] - self.low[...], 1e-12)
        return jnp.clip(jnp.floor(shares * self.buckets), 0, self.buckets - 1).astype(jnp.int32)

    def decode(self, codes: Int[Array, "... C"]) -> Float[Array, "... E"]:
        """Return the vector, of length 1, of the buckets' centres."""
        shares = (codes + 0.5) / self.buckets
        values = self.low[...] + shares * (self.high[...] - self.low[...])
        return unit(jnp.matmul(values, self.basis[...].T, precision=jax.lax.Precision.HIGHEST) + self.mean[...])


class DotProductBuckets(nnx.Module):
    """Buckets of dot products of image and text vectors, bounded by quantiles of a sample."""

    def __init__(self, buckets: int):
        if buckets < 2 or buckets % 2:
            raise ValueError(f"dot_products: expected an even number of buckets, got {buckets}")
        self.count = buckets
        self.bounds = MeasuredStatistic(jnp.linspace(-1.0, 1.0, buckets + 1)[1:-1], axes=(None,))

    def measure(self, sample: VectorSample) -> None:
        """Store the quantiles of a sample."""
        products = (sample.image.astype(np.float64) * sample.text.astype(np.float64)).sum(axis=-1)
        shares = np.arange(1, self.count) / self.count
        self.bounds[...] = jnp.asarray(np.quantile(products, shares), jnp.float32)

    def __call__(self, image: Float[Array, "B E"], text: Float[Array, "B E"]) -> Int[Array, " B"]:
        """Return the bucket of each pair, from 0 for the smallest dot products."""
        return jnp.searchsorted(self.bounds[...], (image * text).sum(axis=-1)).astype(jnp.int32)
