"""Codes sampled on eight devices, and on two processes of four, are those of one device.

Devices sum in another order than one device, so logits differ by rounding. A code flips where two sums of logit and
noise are closer than that. Fewer than 1 in 10,000 codes may.
"""

import functools

import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dalle_jax.config.errors import UserError
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from tests.command_processes import ROOT, finish, start_processes
from tests.sharded_sampling import DALLE, GENERATORS, MESHES, ONE, built, codes_on, layout_of, slot_codes_on

MOST_FLIPS = 1e-4
QUICK = {("mixed", "2x2x2", 8), ("class", "1x8x1", 1)}
"""Cases that are always tested; the others are slow."""

CASES = [
    pytest.param(name, mesh, prompts, marks=[] if (name, mesh, prompts) in QUICK else [pytest.mark.slow])
    for name in GENERATORS
    for mesh in MESHES
    for prompts in (8, 1)
]


@functools.cache
def on_one_device(name: str, prompts: int, candidates: int) -> np.ndarray:
    return np.asarray(codes_on(layout_of(ONE), built(GENERATORS[name]), prompts, candidates))


def flips(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of codes that differ first in their image: all after it depend on it."""
    assert ours.shape == theirs.shape
    return float((ours != theirs).any(axis=-1).sum() / ours.size)


@pytest.mark.parametrize(("name", "mesh", "prompts"), CASES)
def test_eight_devices_sample_the_codes_of_one(name, mesh, prompts):
    ours = codes_on(layout_of(MESHES[mesh]), built(GENERATORS[name]), prompts, 16 // prompts)
    whole = tuple(axis for axis in ("data", "fsdp") if getattr(MESHES[mesh], axis) > 1)
    split = whole if len(whole) > 1 else whole[0]
    assert ours.sharding.spec == (P(split) if prompts == 8 else P(None, split))  # prompts, or candidates of one prompt
    expected = on_one_device(name, prompts, 16 // prompts)
    assert len(np.unique(expected)) > 8
    assert flips(np.asarray(ours), expected) < MOST_FLIPS


@pytest.mark.slow
def test_devices_that_see_the_same_images_and_split_the_weights_sample_the_same_codes():
    """The layout of docs/scale.md for models that do not fit: fsdp splits weights and not images."""
    layout = Layout(make_mesh(MESHES["2x2x2"]), Rules(batch=("data",), candidates=("data",)))
    ours = codes_on(layout, built(GENERATORS["mixed"]), 8, 2)
    assert ours.sharding.spec == P("data")
    assert flips(np.asarray(ours), on_one_device("mixed", 8, 2)) < MOST_FLIPS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed", "mini", "caption"])
def test_windows_of_slots_on_eight_devices_give_the_codes_of_one(name):
    ours = slot_codes_on(layout_of(MESHES["2x2x2"]), built(GENERATORS[name]), 8, 2)
    assert ours.codes.sharding.spec == P(("data", "fsdp"))
    assert flips(np.asarray(ours.codes), on_one_device(name, 8, 2)) < MOST_FLIPS


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_of_many_codes_hardly_any_flips(name):
    ours = np.asarray(codes_on(layout_of(MESHES["2x2x2"]), built(GENERATORS[name]), 8, 256))
    share = flips(ours, on_one_device(name, 8, 256))
    print(f"{name}: {share * ours.size:.0f} flips in {ours.size} codes")
    assert share < MOST_FLIPS


@pytest.mark.slow
def test_two_processes_of_four_devices_sample_the_codes_of_one_device(tmp_path):
    process = [str(ROOT / "tests" / "sharded_sampling.py"), str(tmp_path / "codes.npz"), *GENERATORS]
    ended = finish(start_processes([process] * 2, devices=4), 900)
    assert [code for code, _, _ in ended] == [0, 0], ended
    found = np.load(tmp_path / "codes.npz")
    for name in GENERATORS:
        for prompts in (1, 8):
            assert flips(found[f"{name} {prompts}"], on_one_device(name, prompts, 16 // prompts)) < MOST_FLIPS


def test_grouped_heads_on_eight_devices_sample_the_codes_of_one():
    model = built(DalleConfig(**(DALLE | {"heads": 4, "depth": 2}), kv_heads=2, attention=("full", "column")))
    ours, theirs = (codes_on(layout_of(mesh), model, 4, 2) for mesh in (MESHES["2x2x2"], ONE))
    assert flips(np.asarray(ours), np.asarray(theirs)) < MOST_FLIPS


def test_key_heads_that_the_mesh_does_not_divide_are_one_line():
    model = built(DalleConfig(**(DALLE | {"heads": 8, "head_size": 2, "depth": 1}), kv_heads=2))
    with pytest.raises(UserError, match=r"kv.*'heads' of size 2 .* tensor of 8 devices; .* are 8 \(or shard") as error:
        codes_on(layout_of(Mesh(1, 1, 8)), model, 1, 8)
    assert "\n" not in str(error.value)


def test_heads_that_the_mesh_does_not_divide_are_one_line():
    with pytest.raises(UserError, match=r"'heads' of size 2 .* tensor of 8 devices; the nearest .* are 8") as error:
        codes_on(layout_of(Mesh(1, 1, 8)), built(GENERATORS["full"]), 1, 8)
    assert "\n" not in str(error.value)
