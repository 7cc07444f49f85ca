import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import KINDS, dalle, dalle_bart, llamagen

from dalle_jax.sampling.autoregressive import GivenCodes, Settings, image_keys, sample
from dalle_jax.sampling.slots import (
    NewImages,
    advance,
    empty_slots,
    finished,
    insert,
    prefill,
    sample_in_slots,
)

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4], [7, 0, 0, 0]])
FEATURES = jax.random.normal(jax.random.key(2), (3, 4, 6)).at[1, :2].set(0)
KEYS = image_keys(jnp.array([4, 5, 6]), 2)
SETTINGS = Settings.of(3)._replace(
    temperature=jnp.array([1.0, 0.7, 0.0]), top_k=jnp.array([0, 5, 0]), guidance=jnp.array([2.0, 1.0, 0.5])
)
GIVEN = GivenCodes(
    jax.random.randint(jax.random.key(3), (3, 2, 12), 0, 7),
    jnp.zeros((3, 12), bool).at[1, jnp.array([0, 1, 2, 3, 6, 11])].set(True).at[2, 3:9].set(True),
)
GENERATORS = {
    "mixed": lambda: dalle(KINDS, depth=4),
    "scanned bart": lambda: dalle_bart(decoder_layers=3, scan=True),
    "class": llamagen,
    "scanned caption": lambda: llamagen(captions=True, scan=True),
}


def prompts_of(name):
    return jnp.array([3, 0, 1]) if name == "class" else FEATURES if "caption" in name else TEXT


def compiled(model, function, **options):
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, *arguments: function(nnx.merge(graph, state), *arguments, **options))
    return lambda *arguments: run(state, *arguments)


def in_slots(model, **options):
    """Compile sampling in slots, where the first argument is the largest number of codes that a pass accepts."""
    return compiled(model, lambda generator, most, *rest: sample_in_slots(generator, *rest, most=most, **options))


@pytest.mark.parametrize("name", GENERATORS)
def test_windows_of_guided_images_with_given_codes_are_those_of_plain_sampling(name):
    model, text = GENERATORS[name](), prompts_of(name)
    plain = compiled(model, sample, guided=True)(text, KEYS, SETTINGS, GIVEN)
    run = in_slots(model, guided=True, window=4, slots=4)
    quick, slow = (run(jnp.int32(most), text, KEYS, SETTINGS, GIVEN) for most in (4, 1))
    np.testing.assert_array_equal(quick.codes, slow.codes)
    np.testing.assert_array_equal(quick.codes, plain)
    assert quick.passes < slow.passes


def test_images_without_guidance_and_without_given_codes():
    model = dalle(("row", "column"), depth=5, last_attention="convolutional", scan=True)
    plain = compiled(model, sample, guided=False)(TEXT, KEYS, SETTINGS)
    found = in_slots(model, guided=False, window=3)(jnp.int32(3), TEXT, KEYS, SETTINGS)
    np.testing.assert_array_equal(found.codes, plain)
    assert found.passes < 11


def test_kept_codes_are_jumped_over_a_window_at_a_time():
    keep = jnp.ones((3, 12), bool).at[:, 5].set(False)
    run = in_slots(dalle(["full"]), guided=False, window=4)
    found = run(jnp.int32(4), TEXT, KEYS, SETTINGS, GIVEN._replace(keep=keep))
    kept = np.broadcast_to(keep[:, None], found.codes.shape)
    np.testing.assert_array_equal(np.asarray(found.codes)[kept], np.asarray(GIVEN.codes)[kept])
    assert found.passes <= 4  # 11 codes in windows of 4, and one more pass if the drawn code was guessed wrong


def test_rows_that_join_and_leave_at_random_give_each_image_its_own_codes():
    model, window, slots, images = dalle(KINDS, depth=4), 3, 3, 6
    new = compiled(model, prefill, guided=True)(TEXT)
    put = compiled(model, insert, window=window, guided=True)
    go = compiled(model, advance, window=window, guided=True)
    prompt = jnp.arange(images) // 2
    every = NewImages(
        prompt, KEYS.reshape(-1), jax.tree.map(lambda leaf: leaf[prompt], SETTINGS), GIVEN.codes.reshape(images, 12),
        GIVEN.keep[prompt],
    )  # fmt: skip
    empty = empty_slots(model, new, slots=slots, window=window, guided=True)

    def added(state, slot, image):
        row = jax.tree.map(lambda leaf: leaf[image][None], every)
        return put(state, jnp.array([slot]), new, row)

    alone = []
    for image in range(images):
        state = added(empty, image % slots, image)
        while not finished(state).all():
            state = go(state)
        alone.append(np.asarray(state.codes[image % slots]))
    rng, state, waiting, inside, done = np.random.default_rng(0), empty, list(range(images)), {}, {}
    while len(done) < images:
        for slot in range(slots):
            if slot in inside and finished(state)[slot]:
                done[inside[slot]] = np.asarray(state.codes[slot])
                del inside[slot]
            if slot not in inside and waiting and rng.random() < 0.5:
                inside[slot] = waiting.pop(rng.integers(len(waiting)))
                state = added(state, slot, inside[slot])
        before, state = state, go(state)
        idle = np.asarray(finished(before))
        np.testing.assert_array_equal(state.codes[idle], before.codes[idle])
        np.testing.assert_array_equal(state.position[idle], before.position[idle])
    for image in range(images):
        np.testing.assert_array_equal(done[image], alone[image])
    assert len({codes.tobytes() for codes in alone}) > 3


def test_an_image_whose_slot_does_not_exist_is_left_out():
    model = dalle(["full"])
    new = compiled(model, prefill, guided=True)(TEXT)
    state = empty_slots(model, new, slots=2, window=2, guided=True)
    row = NewImages(jnp.array([1]), KEYS[0, :1], Settings.of(1), GIVEN.codes[:1, 0], GIVEN.keep[:1])
    after = compiled(model, insert, window=2, guided=True)(state, jnp.array([2]), new, row)
    for old, leaf in zip(
        jax.tree.leaves(state._replace(keys=None)), jax.tree.leaves(after._replace(keys=None)), strict=True
    ):
        np.testing.assert_array_equal(leaf, old)
