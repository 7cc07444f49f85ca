"""The table of chips: each device kind belongs to one chip, and an unknown kind to none."""

import re

from dalle_jax.parallel.chips import CHIPS, chip_named, chip_of


def test_every_kind_of_device_is_exactly_one_chip():
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
    assert all(kind in chip_of(kind).kinds for kind in kinds)


def test_an_unknown_device_kind_has_no_chip_even_if_it_resembles_one():
    assert [chip_of(kind) for kind in ("cpu", "TPU v5x", "NVIDIA H100", "tpu v4")] == [None] * 4
    assert chip_named("v5") is None


def test_each_of_two_devices_has_half_of_a_chip():
    chip = chip_of("TPU7x")
    assert chip is chip_named("tpu7x") and chip.devices == 2
    assert chip.device_flops == 2307e12 / 2
    assert chip.device_memory == 96 * 2**30


def test_gpus_are_listed_without_sparsity():
    for chip in CHIPS:
        published = re.search(r"half of ([\d.,]+) ([TP])FLOP/s with sparsity", chip.source)
        if published:
            sparse = float(published[1].replace(",", "")) * {"T": 1e12, "P": 1e15}[published[2]]
            assert abs(chip.flops - sparse / 2) < 1e-3 * sparse
