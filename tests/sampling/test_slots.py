import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import dalle, dalle_bart, llamagen

from dalle_jax.models.heads.forecast_heads import ForecastHeadsConfig
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, image_keys, sample
from dalle_jax.sampling.slots import (
    NewImages,
    advance,
    contexts_of,
    empty_slots,
    finished,
    insert,
    insert_contexts,
    prefill,
    sample_in_slots,
)

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4], [7, 0, 0, 0]])
FEATURES = jax.random.normal(jax.random.key(2), (3, 4, 6)).at[1, :2].set(0)
KEYS = image_keys(jnp.array([4, 5, 6]), 2)
SETTINGS = Settings.of(3)._replace(
    temperature=jnp.array([1.0, 0.7, 0.0]),
    top_k=jnp.array([0, 5, 0]),
    guidance=jnp.array([2.0, 1.0, 0.5]),
    guidance_change=jnp.array([3.0, 0.0, 0.5]),
)
GIVEN = GivenCodes(
    jax.random.randint(jax.random.key(3), (3, 2, 12), 0, 7),
    jnp.zeros((3, 12), bool).at[1, jnp.array([0, 1, 2, 3, 6, 11])].set(True).at[2, 3:9].set(True),
)
SLOTS = {"slots": 3, "window": 3, "guided": True}


def with_heads(model):
    """Add random forecasting heads, whose guesses are mostly wrong."""
    heads = ForecastHeadsConfig(model.codebook_size, model.config.width).build(nnx.Rngs(0))
    heads.code.kernel[...] = jax.random.normal(jax.random.key(7), heads.code.kernel.shape)
    heads.noise[...] = jnp.array([1.0, 0.2])
    model.forecast_heads = heads
    return model


GENERATORS = {
    "mixed": lambda: dalle(["full", "convolutional"]),
    "scanned dalle, heads": lambda: with_heads(dalle(["row", "column"], depth=4, scan=True)),
    "scanned bart, heads": lambda: with_heads(dalle_bart(scan=True)),
    "scanned class, heads": lambda: with_heads(llamagen(scan=True)),
    "caption": lambda: llamagen(captions=True, depth=1),
}


def prompts_of(name):
    return jnp.array([3, 0, 1]) if "class" in name else FEATURES if "caption" in name else TEXT


def compiled(model, function, **options):
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, *arguments: function(nnx.merge(graph, state), *arguments, **options))
    return lambda *arguments: run(state, *arguments)


@functools.cache
def in_slots(name):
    """Compile sampling in slots, where the first argument is the largest number of codes that a pass accepts."""

    def run(generator, most, *rest):
        return sample_in_slots(generator, *rest, most=most, guided=name != "caption", window=4, slots=4)

    return compiled(GENERATORS[name](), run)


@pytest.mark.parametrize("name", GENERATORS)
def test_windows_with_given_codes_give_the_codes_of_plain_sampling(name):
    text = prompts_of(name)
    plain = compiled(GENERATORS[name](), sample, guided=name != "caption")(text, KEYS, SETTINGS, GIVEN)
    quick, slow = (in_slots(name)(jnp.int32(most), text, KEYS, SETTINGS, GIVEN) for most in (4, 1))
    np.testing.assert_array_equal(quick.codes, slow.codes)
    np.testing.assert_array_equal(quick.codes, plain)
    assert quick.passes < slow.passes


def test_kept_codes_are_jumped_over_a_window_at_a_time():
    keep = jnp.ones((3, 12), bool).at[:, 5].set(False)
    found = in_slots("mixed")(jnp.int32(4), TEXT, KEYS, SETTINGS, GIVEN._replace(keep=keep))
    kept = np.broadcast_to(keep[:, None], found.codes.shape)
    np.testing.assert_array_equal(np.asarray(found.codes)[kept], np.asarray(GIVEN.codes)[kept])
    assert found.passes <= 2 * 4  # two rounds of slots: 11 codes in windows of 4, and a pass after a wrong guess


@pytest.fixture(scope="module")
def engine():
    """Return the compiled functions of a model with three slots and windows of three codes, and its empty slots."""
    model = GENERATORS["mixed"]()
    new = compiled(model, prefill, guided=True)(TEXT)
    put = jax.jit(functools.partial(insert, guided=True))
    go = compiled(model, advance, window=3, guided=True)
    return new, put, go, empty_slots(model, new, **SLOTS)


def images_of(numbers):
    """Return the images of those numbers, two of each prompt."""
    prompt = jnp.asarray(numbers) // 2
    rows = jnp.asarray(numbers)
    settings, keep = jax.tree.map(lambda leaf: leaf[prompt], (SETTINGS, GIVEN.keep))
    return NewImages(prompt, KEYS.reshape(-1)[rows], settings, GIVEN.codes.reshape(6, 12)[rows], keep)


def test_rows_that_join_and_leave_at_random_give_each_image_its_own_codes(engine):
    _, put, go, empty = engine
    alone = []
    for image in range(6):
        state = put(empty, jnp.array([image % 3]), images_of([image]))
        while not finished(state).all():
            state = go(state)
        alone.append(np.asarray(state.codes[image % 3]))
    rng, state, waiting, inside, done = np.random.default_rng(0), empty, list(range(6)), {}, {}
    while len(done) < 6:
        for slot in range(3):
            if slot in inside and finished(state)[slot]:
                done[inside[slot]] = np.asarray(state.codes[slot])
                del inside[slot]
            if slot not in inside and waiting and rng.random() < 0.5:
                inside[slot] = waiting.pop(rng.integers(len(waiting)))
                state = put(state, jnp.array([slot]), images_of([inside[slot]]))
        before, state = state, go(state)
        idle = np.asarray(finished(before))
        np.testing.assert_array_equal(state.codes[idle], before.codes[idle])
        np.testing.assert_array_equal(state.position[idle], before.position[idle])
    for image in range(6):
        np.testing.assert_array_equal(done[image], alone[image])
    assert len({codes.tobytes() for codes in alone}) > 3


def test_a_new_prompt_takes_the_place_of_another_and_drawn_images_keep_theirs(engine):
    new, put, go, empty = engine
    model = GENERATORS["mixed"]()
    third = compiled(model, prefill, guided=True)(TEXT[2:])
    third = compiled(model, contexts_of, window=3)(third)
    swap = jax.jit(functools.partial(insert_contexts, guided=True))

    def run(state):
        while not finished(state).all():
            state = go(state)
        return np.asarray(state.codes)

    expected = run(put(empty, jnp.array([0, 1]), images_of([3, 4])))  # of the second and of the third prompt
    two = jax.tree.map(lambda leaf: leaf[jnp.array([0, 1, 3, 4])], new)
    state = go(put(empty_slots(model, two, **SLOTS), jnp.array([0]), images_of([3])))
    state = swap(state, jnp.array([0]), third)
    state = put(state, jnp.array([1]), images_of([4])._replace(prompts=jnp.array([0])))
    np.testing.assert_array_equal(run(state)[:2], expected[:2])


def test_an_image_whose_slot_does_not_exist_is_left_out(engine):
    _, put, _, empty = engine
    state = put(empty, jnp.array([1]), images_of([4]))
    after = put(state, jnp.array([3]), images_of([2]))
    for old, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert (old == leaf).all()


def test_the_output_at_a_code_depends_neither_on_its_place_in_the_window_nor_on_wrong_guesses(engine):
    model, new = GENERATORS["mixed"](), engine[0]
    cache = model.slots(new.cache, 3, rows=6)  # six rows: three prompts, and the empty one of each
    decode = compiled(model, type(model).window_outputs)
    codes = jax.random.randint(jax.random.key(8), (6, 14), 0, 7)
    seen = {}
    for start, right in ((1, 1), (2, 3), (3, 3), (5, 2), (6, 3), (9, 3)):
        guesses = codes[:, start - 1 : start + 2] + (jnp.arange(3) >= right)  # the inputs from ``right`` on are wrong
        outputs, cache = decode(guesses % 7, jnp.full(6, start), cache)
        for place in range(right):
            own = np.asarray(outputs[:, place])
            np.testing.assert_array_equal(seen.setdefault(start + place, own), own)
    assert len(seen) == 11
