"""Random crops of CLIP's training images."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dalle_jax.images.crops import area_box
from dalle_jax.models.clip import ClipConfig, TowerConfig
from dalle_jax.tasks import align_text_images
from dalle_jax.tasks.align_text_images import AlignTextImages, TextImageAlignment
from dalle_jax.tasks.caption_tokens import Captions

TOWER = TowerConfig(width=16, layers=1, heads=2)
MODEL = ClipConfig(image_size=16, patch=8, vision=TOWER, vocab_size=32, text_length=6, text=TOWER, embed_width=8)
CONFIG = AlignTextImages(model=MODEL, captions=Captions(file="unread"), crop_area=0.5)
ROWS = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (1, 32, 3))
EXAMPLES = {"image": [ROWS, ROWS], "caption": ["a", "b"], "caption_group": [0, 1]}


@pytest.fixture(autouse=True)
def _no_text_tokenizer(monkeypatch):
    captions = SimpleNamespace(rows=lambda texts, seeds: np.zeros((len(texts), 6), np.int32))
    monkeypatch.setattr(align_text_images, "loaded", lambda _: captions)


def prepared(config, seeds):
    return TextImageAlignment(config, None, None).prepare(EXAMPLES, seeds)["pixels"]


def test_boxes_are_inside_the_image_and_keep_at_least_the_share():
    boxes = [area_box(40, 30, 0.5, random.Random(seed)) for seed in range(300)]
    sides = [box.side for box in boxes]
    assert 30 * 0.5**0.5 <= min(sides) < 22 and 29 < max(sides) <= 30
    assert all(box.left >= 0 and box.left + box.side <= 40 and 0 <= box.top <= 30 - box.side for box in boxes)
    assert max(box.left + box.side for box in boxes) > 38


def test_training_images_are_cropped_by_their_seeds_and_held_out_ones_are_not():
    first, second = prepared(CONFIG, [(0, 1), (0, 2)])
    assert first.shape == (16, 16, 3) and not np.array_equal(first, second)
    np.testing.assert_array_equal(prepared(CONFIG, [(0, 1), (0, 3)])[0], first)
    whole = prepared(CONFIG, None)
    np.testing.assert_array_equal(whole[0], whole[1])
    # Values grow by 8 per row of 32, so the range of a crop is its share of the side.
    kept = (int(first.max()) - int(first.min())) / (int(whole.max()) - int(whole.min()))
    assert 0.65 < kept < 1.02


def test_without_a_share_nothing_is_cropped():
    config = replace(CONFIG, crop_area=1.0)
    np.testing.assert_array_equal(prepared(config, [(0, 1), (0, 2)]), prepared(config, None))


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="crop_area: expected a share above 0 and up to 1, got 0"):
        replace(CONFIG, crop_area=0.0)
