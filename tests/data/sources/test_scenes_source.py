from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.scenes.grammar import is_held_out, parse

CONFIG = Scenes(size=32, levels=(1, 2, 4), count=300, seed=3, split="train")


def test_an_example_depends_only_on_the_config_and_its_index():
    first, again = CONFIG.open(), CONFIG.open()
    for index in (7, 0, 299):
        np.testing.assert_array_equal(first[index]["image"], again[index]["image"])
        assert first[index]["captions"] == again[index]["captions"]
    assert first[0]["image"].shape == (32, 32, 3)
    assert len(first) == 300
    for other in (replace(CONFIG, seed=4), replace(CONFIG, split="validation")):
        assert sum((other.open()[i]["image"] != first[i]["image"]).any() for i in range(20)) == 20


def test_every_example_belongs_to_its_split():
    for split in ("train", "validation", "held_out"):
        source = replace(CONFIG, split=split).open()
        for index in range(60):
            assert {is_held_out(parse(caption)) for caption in source[index]["captions"]} == {split == "held_out"}


def test_a_longer_source_begins_with_the_shorter_one():
    np.testing.assert_array_equal(replace(CONFIG, count=900).open()[5]["image"], CONFIG.open()[5]["image"])


def test_the_shares_of_levels_are_their_weights():
    source = replace(CONFIG, weights=(1.0, 3.0, 1.0)).open()
    counts = Counter(parse(source[i]["captions"][0]).level for i in range(300))
    assert counts[2] / 300 == pytest.approx(0.6, abs=0.1)
    assert set(counts) == {1, 2, 4}


def test_the_fingerprint_changes_with_every_field():
    changes = (
        {"size": 64},
        {"levels": (1,)},
        {"count": 301},
        {"seed": 4},
        {"split": "held_out"},
        {"weights": (1.0, 1.0, 2.0)},
    )
    prints = [replace(CONFIG, **change).open().fingerprint() for change in ({}, *changes)]
    assert len(set(prints)) == len(prints)
    assert CONFIG.open().fingerprint() == prints[0]


def test_all_wrong_fields_are_reported_together():
    with pytest.raises(UserError, match=r"size.*levels.*count.*seed.*weights"):
        Scenes(size=4, levels=(9,), count=0, seed=-1, split="train", weights=(1.0, 2.0)).open()


def test_an_index_out_of_range_is_an_index_error():
    with pytest.raises(IndexError):
        CONFIG.open()[300]
