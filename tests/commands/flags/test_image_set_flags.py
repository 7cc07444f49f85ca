import json
from types import SimpleNamespace

import pytest

from dalle_jax.commands.flags import image_set_flags as flags
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import holds_codes
from dalle_jax.evaluate.suites.image_sets import RecordImages
from tests.evaluate.suites.image_files import MeanColours, write_images


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        ('{"format": "dalle_jax codes"}', True),
        ('{"format": "dalle_jax embeddings"}', False),
        ('{"format": "dalle_jax bulk sampling"}', False),
        ("not json", False),
        (None, False),
    ],
)
def test_a_folder_of_codes_is_known_by_its_manifest(tmp_path, content, codes):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert holds_codes(tmp_path) is codes


def test_a_folder_of_images_needs_no_captions(tmp_path):
    folder = write_images(tmp_path / "bare", 3, seed=0, captions=False)
    found = flags.open_image_set(str(folder), 4, None, None, print)
    assert isinstance(found, RecordImages)
    assert found.read([1]).images.shape == (1, 4, 4, 3)
    with pytest.raises(UserError, match="--size: expected at least 1 pixel, got 0"):
        flags.open_image_set(str(folder), 0, None, None, print)


def test_samples_have_their_prompts_as_captions_and_their_grid_is_none_of_them(tmp_path):
    folder = write_images(tmp_path / "samples", 3, seed=0, captions=False)
    files = sorted(one.name for one in folder.iterdir())
    lines = [{"file": one, "prompt": f"image {number}", "score": 0.5} for number, one in enumerate(files[:2])]
    (folder / "scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    found = flags.open_image_set(str(folder), 4, None, None, print)
    assert len(found) == 2 and found.unreadable() == ()
    assert found.read([0, 1]).captions == (("image 0",), ("image 1",))


def test_codes_have_the_size_that_was_encoded_and_need_their_own_tokenizer(tmp_path, monkeypatch):
    encoding = SimpleNamespace(image_size=32, tokenizer="tokenizer-1")
    codes = SimpleNamespace(manifest=SimpleNamespace(encoding=encoding, image_tokenizer="here"))
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "dalle_jax codes"}))
    monkeypatch.setattr(flags, "Codes", lambda path: SimpleNamespace(open=lambda: codes))
    monkeypatch.setattr(flags, "load_image_tokenizer", lambda folder, layout: None)
    monkeypatch.setattr(flags, "fingerprint", lambda network: "tokenizer-2")
    with pytest.raises(UserError, match=r"--size: expected 32, the size of the images .* was encoded from, got 64"):
        flags.open_image_set(str(tmp_path), 64, None, None, print)
    with pytest.raises(UserError, match=r"--image-tokenizer: expected tokenizer-1, which .* got tokenizer-2 in here"):
        flags.open_image_set(str(tmp_path), 32, None, None, print)


def test_two_networks_of_a_kind_get_names_of_their_own(monkeypatch):
    opened = []

    def open_one(specification, own_clip, layout, batch):
        opened.append(specification)
        return MeanColours()

    monkeypatch.setattr(flags, "open_features", open_one)
    given = ["clip:a", "clip:b", "own-clip", "clip:c"]
    assert list(flags.open_extractors(given, None, None)) == ["clip", "clip-2", "own-clip", "clip-3"]
    assert list(flags.open_extractors(None, None, None)) == ["efficientnet-lite0"]
    assert opened == [*given, "efficientnet-lite0"]
