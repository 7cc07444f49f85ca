import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import KINDS, MIX, dalle, dalle_bart, forward

from dalle_jax.sampling import autoregressive
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, draw, guide, image_keys, sample
from dalle_jax.sampling.options import SamplingOptions

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
GENERATORS = {
    **{kind: (lambda kind=kind: dalle([kind])) for kind in KINDS},
    "bart": dalle_bart,
    "scanned": lambda: dalle(("row", "column"), depth=5, last_attention="convolutional", scan=True),
    "scanned bart": lambda: dalle_bart(decoder_layers=3, scan=True),
}


def given_codes(codes, keep):
    """Give the same codes to two candidates of each prompt."""
    return GivenCodes(jnp.repeat(codes[:, None], 2, axis=1), keep)


def sampler(model, guided=False):
    graph, state = nnx.split(model)
    return jax.jit(lambda *arguments: sample(nnx.merge(graph, state), *arguments, guided=guided))


def empty_cache(model):
    """Return the shapes of the cache after the prompt."""
    return jax.eval_shape(lambda: model.prefill(TEXT, 2)[1])


@pytest.fixture(scope="module")
def mixed():
    return dalle(MIX, depth=4)


@pytest.fixture(scope="module")
def run(mixed):
    return sampler(mixed)


@pytest.mark.parametrize("name", GENERATORS)
def test_cached_decoding_equals_teacher_forcing(name):
    model, candidates, positions = GENERATORS[name](), 3, 12
    codes = jax.random.randint(jax.random.key(0), (2, candidates, positions), 0, 7)
    graph, state = nnx.split(model)
    forced = forward(model)(jnp.repeat(TEXT, candidates, axis=0), codes.reshape(-1, positions)).image
    forced = forced.reshape(2, candidates, positions, 7)
    decode = jax.jit(lambda previous, i, cache: nnx.merge(graph, state).decode(previous, i, cache))
    first, cache = jax.jit(lambda text: nnx.merge(graph, state).prefill(text, candidates))(TEXT)
    np.testing.assert_allclose(jnp.repeat(first[:, None], candidates, 1), forced[:, :, 0], rtol=1e-4, atol=1e-5)
    for position in range(1, positions):
        if position in (1, 6):
            cache = model.grow(cache, 5 if position == 1 else positions - 1)
        logits, cache = decode(codes[:, :, position - 1], jnp.int32(position), cache)
        np.testing.assert_allclose(logits, forced[:, :, position], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mixed", "bart"])
def test_greedy_guided_samples_with_given_codes_are_the_argmax_of_guided_teacher_forcing(name, mixed):
    model = mixed if name == "mixed" else dalle_bart()
    given = jax.random.randint(jax.random.key(3), (2, 12), 0, 7)
    first, change = jnp.array([2.5, 1.0]), jnp.array([1.5, 0.0])
    keep = jnp.zeros((2, 12), bool).at[1, jnp.array([0, 1, 2, 6, 7, 11])].set(True)
    settings = Settings.of(2, temperature=0.0)._replace(guidance=first, guidance_change=change)
    keys = image_keys(jnp.arange(2), 2)
    codes = sampler(model, guided=True)(TEXT, keys, settings, given_codes(given, keep))
    np.testing.assert_array_equal(codes[:, 0], codes[:, 1])
    codes = codes[:, 0]
    conditional, empty = (forward(model)(text, codes).image for text in (TEXT, jnp.zeros_like(TEXT)))
    scale = jnp.stack([jnp.linspace(2.5, 4.0, 12), jnp.ones(12)])
    expected = (empty + scale[:, :, None] * (conditional - empty)).argmax(-1)
    np.testing.assert_array_equal(codes, jnp.where(keep, given, expected))


@pytest.mark.parametrize("kinds", [["full"], MIX], ids=["full", "mix"])
def test_the_cache_growing_in_stages_changes_no_code(kinds, monkeypatch):
    model, keys, settings = dalle(kinds, depth=4), image_keys(jnp.array([4, 5]), 2), Settings.of(2)
    whole = sampler(model)(TEXT, keys, settings)
    monkeypatch.setattr(autoregressive, "STAGE", 4)
    assert autoregressive.stages(model, empty_cache(model), 12) == [1, 4, 8, 12]
    np.testing.assert_array_equal(sampler(model)(TEXT, keys, settings), whole)


def test_a_cache_that_hardly_grows_has_one_stage(monkeypatch):
    monkeypatch.setattr(autoregressive, "STAGE", 4)
    model = dalle(["row", "column"])
    assert autoregressive.stages(model, empty_cache(model), 12) == [1, 12]


def test_greedy_sampling_equals_top_1_and_the_smallest_nucleus(run):
    keys = image_keys(jnp.array([4, 5]), 2)
    greedy = run(TEXT, keys, Settings.of(2, temperature=0.0))
    np.testing.assert_array_equal(run(TEXT, keys, Settings.of(2, top_k=1)), greedy)
    np.testing.assert_array_equal(run(TEXT, keys, Settings.of(2, top_p=1e-6)), greedy)
    assert run._cache_size() == 1  # other settings compile nothing


def test_an_image_is_the_same_alone_and_in_a_batch(mixed, run):
    settings = Settings.of(2, temperature=0.9, top_k=5)
    batch = run(TEXT, image_keys(jnp.array([7, 8]), 2), settings)
    alone = run(TEXT[1:], image_keys(jnp.array([8]), 1, first=1), jax.tree.map(lambda x: x[1:], settings))
    np.testing.assert_array_equal(alone[0, 0], batch[1, 1])
    assert (np.asarray(batch[1, 0]) != np.asarray(batch[1, 1])).any()


def test_the_given_codes_may_be_the_whole_image(run):
    given = jax.random.randint(jax.random.key(3), (2, 12), 0, 7)
    codes = run(TEXT, image_keys(jnp.arange(2), 2), Settings.of(2), given_codes(given, jnp.ones((2, 12), bool)))
    np.testing.assert_array_equal(codes, jnp.repeat(given[:, None], 2, axis=1))


def test_each_candidate_has_its_own_given_codes(run):
    given = jax.random.randint(jax.random.key(4), (2, 2, 12), 0, 7)
    keep = jnp.arange(12)[None] % 3 != jnp.array([[0], [1]])
    codes = run(TEXT, image_keys(jnp.arange(2), 2), Settings.of(2), GivenCodes(given, keep))
    kept = np.broadcast_to(keep[:, None], codes.shape)
    np.testing.assert_array_equal(np.asarray(codes)[kept], np.asarray(given)[kept])
    assert (np.asarray(codes)[~kept] != np.asarray(given)[~kept]).any()


def test_noise_drawn_step_by_step_gives_the_same_image(mixed, run, monkeypatch):
    keys, settings = image_keys(jnp.arange(2), 2), Settings.of(2)
    ahead = run(TEXT, keys, settings)
    monkeypatch.setattr("dalle_jax.sampling.autoregressive.MAX_NOISE_VALUES", 0)
    np.testing.assert_array_equal(sampler(mixed)(TEXT, keys, settings), ahead)


def test_sampled_codes_follow_their_probabilities():
    count, logits = 20_000, jnp.array([1.0, 0.0, -1.0, 2.0, 0.5])
    noise = jax.random.gumbel(jax.random.key(0), (1, count, 5))
    for settings, expected in (
        (Settings.of(1, temperature=0.7), jax.nn.softmax(logits / 0.7)),
        (Settings.of(1, top_k=2), jax.nn.softmax(jnp.array([1.0, -jnp.inf, -jnp.inf, 2.0, -jnp.inf]))),
    ):
        codes = draw(jnp.broadcast_to(logits, (1, count, 5)), noise, settings)
        counts = np.bincount(np.asarray(codes)[0], minlength=5)
        drawn, wanted = counts[np.asarray(expected) > 0], np.asarray(expected)[np.asarray(expected) > 0] * count
        assert counts.sum() == drawn.sum()
        assert ((drawn - wanted) ** 2 / wanted).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_the_key_of_an_image_depends_only_on_its_seed_and_index():
    keys = jax.random.key_data(image_keys(jnp.array([3, 9]), 4))
    np.testing.assert_array_equal(keys[1, 2], jax.random.key_data(image_keys(jnp.array([9]), 1, first=2))[0, 0])


def test_guidance_is_linear_over_the_codes():
    settings = Settings.stack([SamplingOptions(guidance=2.0, guidance_end=5.0), SamplingOptions(guidance=1.7)])
    scale = settings.guidance_at(jnp.arange(4)[None], 4)
    np.testing.assert_allclose(scale[0], [2, 3, 4, 5], rtol=1e-6)
    np.testing.assert_array_equal(scale[1], jnp.full(4, 1.7))  # exactly, as without an end
    assert Settings.of(1, guidance=2.0, guidance_end=5.0).guidance_at(jnp.zeros((1, 1), jnp.int32), 1) == 2


def test_guidance_extrapolates_from_the_unconditional_logits_per_prompt():
    conditional, unconditional = jax.random.normal(jax.random.key(0), (2, 3, 2, 5))
    out = guide(conditional, unconditional, jnp.array([[0.0], [1.0], [3.0]]))
    np.testing.assert_array_equal(out[0], unconditional[0])
    np.testing.assert_array_equal(out[1], conditional[1])
    np.testing.assert_allclose(out[2], 3 * conditional[2] - 2 * unconditional[2], rtol=1e-4, atol=1e-5)
