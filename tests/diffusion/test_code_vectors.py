"""Diffusion on code vectors against closed forms: independent places with a known distribution of codes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.code_vectors import (
    KnownCodes,
    guided_logits,
    own_likelihood,
    sample_codes,
    signal_shares,
)

VECTORS = jnp.array([[2.0, 0.0], [0.0, 2.0], [-1.5, -1.5]])


@dataclasses.dataclass(frozen=True)
class KnownShares:
    """A denoiser of independent places: its logits are the guide itself, the logarithms of the shares of the codes."""

    @property
    def code_vectors(self):
        return VECTORS

    def __call__(self, x, time, guide):
        del time
        return jnp.broadcast_to(guide[:, None], (*x.shape[:2], guide.shape[-1]))


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_the_own_likelihood_is_the_gaussian_density_up_to_a_constant_of_the_place():
    x = jax.random.normal(jax.random.key(0), (4, 5, 2))
    time = jnp.array([0.0, 0.2, 0.6, 0.95])
    distances = jnp.square(x[:, :, None] - time[:, None, None, None] * VECTORS).sum(-1)  # [B I K]
    expected = -distances / (2 * (1 - time[:, None, None]) ** 2)
    got = own_likelihood(x, time, VECTORS)
    np.testing.assert_allclose(got - got[..., :1], expected - expected[..., :1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[0], 0.0, atol=1e-6)  # pure noise says nothing


@pytest.mark.parametrize("shares", [(0.6, 0.3, 0.1), (0.2, 0.2, 0.6)])
def test_sampled_codes_have_the_distribution_that_the_denoiser_knows(shares):
    guide = jnp.log(jnp.broadcast_to(jnp.array(shares), (400, 3)))
    codes = jax.jit(lambda guide: sample_codes(KnownShares(), guide, keys(400), 10, 64, jnp.ones(400)))(guide)
    counts = np.bincount(np.asarray(codes).reshape(-1), minlength=3) / codes.size
    np.testing.assert_allclose(counts, shares, atol=0.04)  # 4000 draws, and 64 steps


def test_guidance_of_the_logits_squares_the_ratio_of_the_shares_at_scale_2():
    given, free = jnp.log(jnp.array([[0.6, 0.3, 0.1]])), jnp.log(jnp.array([[0.2, 0.4, 0.4]]))
    x = jnp.zeros((1, 1, 2))
    logits = guided_logits(KnownShares(), x, jnp.zeros(1), given, free, jnp.array([2.0]))
    shares = np.array([0.6**2 / 0.2, 0.3**2 / 0.4, 0.1**2 / 0.4])
    np.testing.assert_allclose(jax.nn.softmax(logits)[0, 0], shares / shares.sum(), rtol=1e-5)


def test_guidance_1_equals_no_guidance():
    given = jax.random.normal(jax.random.key(2), (6, 3))
    one = sample_codes(KnownShares(), given, keys(6), 4, 3, jnp.ones(6), jnp.zeros((6, 3)))
    np.testing.assert_array_equal(one, sample_codes(KnownShares(), given, keys(6), 4, 3, jnp.full(6, 5.0)))


def test_the_codes_of_a_row_depend_on_its_own_key_and_guide_alone():
    given = jnp.log(jnp.full((4, 3), 1 / 3))
    whole = sample_codes(KnownShares(), given, keys(4), 6, 4, jnp.ones(4))
    part = sample_codes(KnownShares(), given[2:], keys(4)[2:], 6, 4, jnp.ones(2))
    np.testing.assert_array_equal(whole[2:], part)
    assert len(np.unique(whole, axis=0)) > 1


def test_shares_of_the_data_rise_with_the_square_of_the_step():
    np.testing.assert_allclose(signal_shares(4), [0.0, 1 / 16, 1 / 4, 9 / 16])


def test_one_step_takes_the_likeliest_codes_of_pure_noise():
    given = jnp.log(jnp.array([[0.2, 0.5, 0.3]]))
    np.testing.assert_array_equal(sample_codes(KnownShares(), given, keys(1), 4, 1, jnp.ones(1)), jnp.full((1, 4), 1))


class EqualPairs:
    """A denoiser of data whose two places hold the same code: a place's logits are the other's likelihood."""

    code_vectors = VECTORS

    def __call__(self, x, time, guide):
        del guide
        return own_likelihood(x[:, ::-1], time, VECTORS)


@pytest.mark.parametrize("steps", [1, 8])
def test_known_codes_stay_and_the_others_are_sampled_to_agree_with_them(steps):
    codes = jnp.arange(300)[:, None] % jnp.array([3, 2])
    known = KnownCodes(codes, jnp.broadcast_to(jnp.array([True, False]), codes.shape))
    found = sample_codes(EqualPairs(), jnp.zeros(300), keys(300), 2, steps, jnp.ones(300), known=known)
    np.testing.assert_array_equal(found[:, 0], codes[:, 0])
    agreeing = float((found[:, 1] == codes[:, 0]).mean())
    assert agreeing > 0.7 if steps == 8 else agreeing < 0.5, agreeing  # 1 in 3 at random; one step sees pure noise


def test_codes_without_a_known_place_are_those_of_plain_sampling():
    given = jax.random.normal(jax.random.key(2), (6, 3))
    nothing_known = KnownCodes(jnp.ones((6, 4), jnp.int32), jnp.zeros((6, 4), bool))
    plain = sample_codes(KnownShares(), given, keys(6), 4, 3, jnp.ones(6))
    np.testing.assert_array_equal(
        sample_codes(KnownShares(), given, keys(6), 4, 3, jnp.ones(6), known=nothing_known), plain
    )
