"""Images that share the slots of an engine have the codes of ``autoregressive.sample``, bit for bit."""

import functools
import random

import jax.numpy as jnp
import numpy as np
import pytest
from small_generators import dalle, dalle_bart, llamagen

from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.rows.slot_image import GivenRow, SlotImage
from dalle_jax.pipelines.slot_engine import SlotEngine
from dalle_jax.sampling.autoregressive import GivenCodes, NegativePrompts, Settings, image_keys, sample
from dalle_jax.sampling.options import SamplingOptions
from tests.sharded_sampling import MESHES, layout_of

TEXT = np.array([[3, 5, 0, 0], [1, 2, 9, 4], [7, 0, 0, 0]], np.int32)
NEGATIVE = np.array([[8, 0, 0, 0], [0, 0, 0, 0], [2, 6, 0, 0]], np.int32)
HAS_NEGATIVE = (True, False, True)
OPTIONS = [
    SamplingOptions(temperature=1.0, guidance=2.0, guidance_end=0.5),
    SamplingOptions(temperature=0.7, top_k=5, guidance=1.0),
    SamplingOptions(temperature=0.9, top_p=0.8, guidance=0.5),
]
FEATURES = np.random.default_rng(1).normal(size=(3, 4, 6)).astype(np.float32)
SEEDS, CANDIDATES = (4, 5, 2**31 + 6), 4
GIVEN = np.random.default_rng(0).integers(0, 7, 12).astype(np.int32)
KEEP = np.isin(np.arange(12), (0, 1, 2, 3, 6, 11))  # of the second prompt


def plain_codes(model, text, *, guided, negative, given):
    """Return the codes [P M I] of ``sample``."""
    plain = CompiledNetwork(model).jit(functools.partial(sample, guided=guided))
    keep = np.zeros((3, 12), bool)
    keep[1] = given & KEEP
    rows = NegativePrompts(jnp.asarray(NEGATIVE), jnp.array(HAS_NEGATIVE)) if negative else None
    return np.asarray(
        plain(
            jnp.asarray(text), image_keys(jnp.array(SEEDS, jnp.uint32), CANDIDATES), Settings.stack(OPTIONS),
            GivenCodes(jnp.broadcast_to(GIVEN, (3, CANDIDATES, 12)), jnp.asarray(keep)), rows,
        )
    )  # fmt: skip


def drawn_codes(engine, text, *, negative=False, given=False, passes=None, seed=0):
    """Draw all images in an engine that they join at random moments, and return their codes [P M I]."""
    chosen = random.Random(seed)
    waiting = [(prompt, number) for prompt in range(3) for number in range(CANDIDATES)]
    held, inside, found = {}, {}, np.full((3, CANDIDATES, 12), -1)
    while waiting or inside:
        while waiting:
            prompt, number = waiting[0]
            if prompt not in held:
                rows = [NEGATIVE[prompt] if HAS_NEGATIVE[prompt] else None] if negative else None
                (held[prompt],) = engine.hold(text[prompt : prompt + 1], rows)
            top = GivenRow(GIVEN, KEEP) if given and prompt == 1 else None
            image = SlotImage(held[prompt], SEEDS[prompt], number, OPTIONS[prompt], top)
            if not (slots := engine.insert([image])):
                break
            inside[slots[0]] = waiting.pop(0)
            if number == CANDIDATES - 1:
                engine.release(held[prompt])
            if chosen.random() < 0.3:
                break
        assert engine.busy == len(inside)
        if done := engine.advance(passes):
            for slot, codes in zip(done, np.asarray(engine.collect(done)), strict=False):
                found[inside.pop(slot)] = codes
    return found


CASES = {
    "mixed": (lambda: dalle(["full", "convolutional"]), {"window": 1}, True),
    "scanned in windows": (lambda: dalle(["row", "column"], depth=4, scan=True), {"window": 3}, True),
    "mini in groups": (lambda: dalle_bart(scan=True), {"group": 2, "window": 3}, True),
    "class": (lambda: llamagen(depth=1), {"group": 2}, False),
    "caption": (lambda: llamagen(captions=True, scan=True), {}, True),
}


SLOW = {"mixed", "mini in groups", "class", "caption"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
def test_images_that_join_and_leave_at_random_have_the_codes_of_plain_sampling(name):
    build, options, guided = CASES[name]
    text = {"class": np.array([3, 0, 1], np.int32), "caption": FEATURES}.get(name, TEXT)
    engine = SlotEngine(CompiledNetwork(build()), slots=4, contexts=2, guided=guided, **options)
    negative = guided and name != "caption"
    expected = plain_codes(build(), text, guided=guided, negative=negative, given=True)
    for passes in (None, 2):
        found = drawn_codes(engine, text, negative=negative, given=True, passes=passes, seed=passes)
        np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected, axis=1)) == 3 and engine.free_contexts == 2
    assert [one.compiles() for one in (engine._insert, engine._advance, engine._read)] == [1, 1, 1]


@pytest.fixture(scope="module")
def engine():
    return SlotEngine(CompiledNetwork(dalle()), slots=3, contexts=2, guided=True)


def test_without_images_no_pass_is_run(engine):
    assert engine.advance() == [] and engine._advance.compiles() == 0


def test_a_cancelled_image_frees_its_slot_and_the_others_keep_their_codes(engine):
    first, second = engine.hold(TEXT[:2])
    slots = engine.insert([SlotImage(one, 0, 0, OPTIONS[0]) for one in (first, second)])
    engine.advance(3)
    engine.cancel(slots[:1])
    assert engine.busy == 1 and engine.advance() == slots[1:]
    alone = np.asarray(engine.collect(slots[1:]))[0]
    again = engine.insert([SlotImage(second, 0, 0, OPTIONS[0])])
    np.testing.assert_array_equal(np.asarray(engine.collect(engine.advance()))[0], alone)
    assert again == slots[1:] and not engine.busy  # the slot that has the prompt already
    engine.release(first)
    engine.release(second)


def test_the_codes_so_far_are_the_first_codes_of_the_finished_image(engine):
    (context,) = engine.hold(TEXT[:1])
    slots = engine.insert([SlotImage(context, 0, n, OPTIONS[0]) for n in range(4)])
    engine.release(context)
    assert len(slots) == 3  # of four images
    assert engine.advance(5) == []
    seen = np.asarray(engine.codes_so_far(slots))
    assert [engine.position(slot) for slot in slots] == [6, 6, 6]
    assert np.asarray(engine.started()).tolist() == [6, 6, 6]
    done = engine.advance()
    np.testing.assert_array_equal(np.asarray(engine.collect(done))[:, :6], seen[:, :6])


def test_prompts_without_room_and_unfinished_images_are_errors(engine):
    with pytest.raises(ValueError, match=r"prompts: expected at most 2 .* got 3"):
        engine.hold(TEXT)
    (context,) = engine.hold(TEXT[:1])
    slots = engine.insert([SlotImage(context, 0, 0, OPTIONS[0])])
    with pytest.raises(ValueError, match="slots: expected those of finished images"):
        engine.collect(slots)
    engine.cancel(slots)
    engine.release(context)


@pytest.mark.slow
def test_slots_on_eight_devices_give_the_codes_of_one():
    network = CompiledNetwork(dalle(codebook_size=8, text_vocab=12), layout_of(MESHES["2x2x2"]))
    engine = SlotEngine(network, slots=8, contexts=4, guided=True, window=2)
    expected = plain_codes(dalle(codebook_size=8, text_vocab=12), TEXT, guided=True, negative=False, given=False)
    assert engine._state.slots.codes.sharding.spec[0] == ("data", "fsdp")
    assert (drawn_codes(engine, TEXT) != expected).any(axis=-1).sum() == 0
    assert engine._advance.compiles() == 1
