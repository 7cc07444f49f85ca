"""Diffusion on the vectors of codes: the noising process, the denoiser's prediction, and sampling.

A place with code k has the input ``x = t e_k + (1 - t) noise`` at time t: the straight path of rectified flow (Liu et
al. 2022, arXiv 2209.03003) from noise at t = 0 to the code vectors ``e`` at t = 1. The denoiser predicts a distribution
over the codes, whose mean vector is the prediction of x0 (CDCD, arXiv 2211.15089, section 3.1).

    B batch   I places   c code width   K codebook
"""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float, Int, Key
from dalle_jax.diffusion.continuous import straight_levels
from dalle_jax.diffusion.latent_edit import keep_known, paste
from dalle_jax.diffusion.levels import NoiseLevel, initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput, Parameterization
from dalle_jax.diffusion.samplers.ddim import invert
from dalle_jax.diffusion.samplers.flow_ode import Euler
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, Sampler

Condition = TypeVar("Condition", contravariant=True)

LATEST = 0.999
"""The latest time at which the denoiser is asked; the likelihood's variance (1 - t)^2 is 0 at time 1."""


class KnownCodes(NamedTuple):
    """Codes of an image that is given in part; ``codes`` is read only where ``keep`` is True."""

    codes: Int[Array, "B I"]
    keep: Bool[Array, "B I"]


@runtime_checkable
class PredictsCodes(Protocol[Condition]):
    """A network that predicts codes from their noised vectors."""

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """The vectors of the codes."""
        ...

    def __call__(self, x: Float[Array, "B I c"], time: Float[Array, " B"], guide: Condition) -> Float[Array, "B I K"]:
        """Return logits of the codes from the caption, the embedding and the neighbourhood of each place."""
        ...


def own_likelihood(
    x: Float[Array, "B I c"], time: Float[Array, " B"], vectors: Float[Array, "K c"]
) -> Float[Array, "B I K"]:
    """Return the log-density of each place's input given each code, up to a constant of the place.

    It is ``-|x - t e_k|^2 / (2 (1 - t)^2)`` without the term ``|x|^2``.
    """
    share = time[:, None, None]
    cross = jnp.matmul(x, vectors.T, precision=jax.lax.Precision.HIGHEST)  # [B I K]
    squared = (vectors * vectors).sum(-1)  # [K]
    return (share * cross - share**2 * squared / 2) / (1 - share) ** 2


def guided_logits(
    denoiser: PredictsCodes[Condition],
    x: Float[Array, "B I c"],
    time: Float[Array, " B"],
    guide: Condition,
    nothing: Condition | None,
    scale: Float[Array, " B"],
) -> Float[Array, "B I K"]:
    """Return the logits of the codes under classifier-free guidance (arXiv 2207.12598), with the own likelihood added.

    Guidance moves the network's logits only: the likelihood of a place's own input does not depend on the condition.
    Without ``nothing``, the unconditional input, ``scale`` is not read and the network runs once.
    """
    if nothing is None:
        logits = denoiser(x, time, guide)
    else:
        both = jax.tree.map(lambda *pair: jnp.concatenate(pair), guide, nothing)
        stacked = denoiser(jnp.concatenate([x, x]), jnp.concatenate([time, time]), both)
        conditional, free = jnp.split(stacked, 2)
        factor = scale[:, None, None]
        logits = jnp.where(factor == 1, conditional, free + factor * (conditional - free))
    return logits + own_likelihood(x, time, denoiser.code_vectors)


def expected_vectors(
    denoiser: PredictsCodes[Condition], guide: Condition, scale: Float[Array, " B"], nothing: Condition | None
) -> Denoiser:
    """Return the denoiser that predicts x0 as the mean of the code vectors under the guided logits."""
    vectors = denoiser.code_vectors

    def expected(x: Array, level: NoiseLevel) -> ModelOutput:
        logits = guided_logits(denoiser, x, level.time, guide, nothing, scale)
        shares = jax.nn.softmax(logits, axis=-1)
        return ModelOutput(jnp.matmul(shares, vectors, precision=jax.lax.Precision.HIGHEST))

    return expected


def signal_shares(steps: int, power: float = 2.0) -> Float[np.ndarray, " steps"]:
    """Return the times ``(i / steps)^power`` at which a sampler asks the denoiser, from 0 on."""
    return np.minimum((np.arange(steps) / steps) ** power, LATEST)


def sample_codes(
    denoiser: PredictsCodes[Condition],
    guide: Condition,
    keys: Key[Array, " B"],
    places: int,
    steps: int,
    scale: Float[Array, " B"],
    nothing: Condition | None = None,
    start: Float[Array, "B I c"] | None = None,
    sampler: Sampler = Euler(),  # noqa: B008 (frozen)
    known: KnownCodes | None = None,
) -> Int[Array, "B I"]:
    """Sample codes by Euler steps of the probability-flow ODE; the noise of a row depends on its key alone.

    A step predicts the codes, moves to the next time on the straight line through the mean predicted vector, and the
    last step takes the most likely codes. ``start`` is the noise to begin with, such as that of ``invert_codes``.

    Known codes stay. In every step their vectors replace the prediction (arXiv 2212.00490, equation 13), so the path
    of a known place is the straight line from its own noise to its vector. The denoiser therefore sees the known
    vectors at the noise of each time, as in training.
    """
    vectors, shares = denoiser.code_vectors, signal_shares(steps)
    expected = expected_vectors(denoiser, guide, scale, nothing)
    if known is not None:
        expected = keep_known(expected, vectors[known.codes], known.keep[..., None], "x0")
    if start is None:
        start = initial_noise(keys, (places, vectors.shape[1]))  # [B I c]
    x = sampler.sample(expected, straight_levels(shares), start, KeyedNoise(keys), Parameterization("x0"))
    last = jnp.full(x.shape[:1], shares[-1], jnp.float32)
    codes = jnp.argmax(guided_logits(denoiser, x, last, guide, nothing, scale), axis=-1).astype(jnp.int32)
    return codes if known is None else paste(codes, known.codes, known.keep)


def invert_codes(
    denoiser: PredictsCodes[Condition],
    guide: Condition,
    codes: Int[Array, "B I"],
    steps: int,
    scale: Float[Array, " B"],
    nothing: Condition | None = None,
) -> Float[Array, "B I c"]:
    """Return the noise from which ``sample_codes`` gives nearly these codes, under the same guide (arXiv 2010.02502).

    It goes back from the vectors of the codes, at time 1, over the times of the sampler.
    """
    levels = straight_levels(np.append(signal_shares(steps), 1.0))
    expected = expected_vectors(denoiser, guide, scale, nothing)
    return invert(expected, levels, denoiser.code_vectors[codes], Parameterization("x0"))
