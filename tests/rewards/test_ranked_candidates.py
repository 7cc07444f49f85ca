"""Pairs of preferences from small folders of the form that ``sample --tars`` writes."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.images.png import encode_png
from dalle_jax.rewards.ranked_candidates import RankedCandidates
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import render


def grey(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, np.uint8)


def written(folder: Path, rows: list[tuple[str, object, np.ndarray]]) -> str:
    """Write images as a bulk job does: rows of a prompt, its score and its image."""
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, (prompt, score, image) in enumerate(rows):
            record = json.dumps({"caption": prompt, "score": score}).encode()
            for name, content in (("png", encode_png(image, {})), ("txt", prompt.encode()), ("json", record)):
                member = tarfile.TarInfo(f"{number:09d}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(folder)


ROWS = [
    ("a", 0.1, grey(10)), ("a", 0.9, grey(90)), ("a", 0.5, grey(50)), ("a", 0.4, grey(40)), ("a", 0.45, grey(45)),
    ("b", 0.3, grey(30)), ("b", 0.3, grey(31)),
    ("c", 0.7, grey(70)),
]  # fmt: skip


def levels_of(source) -> list[tuple[str, int, int]]:
    every = [source[index] for index in range(len(source))]
    return [(one["captions"][0], int(one["image"].max()), int(one["rejected"].max())) for one in every]


def test_the_best_image_of_a_prompt_is_preferred_to_the_worst_and_the_second_to_the_last_but_one(tmp_path):
    folder = written(tmp_path / "job", ROWS)
    assert levels_of(RankedCandidates(folder).open()) == [("a", 90, 10)]
    assert levels_of(RankedCandidates(folder, pairs=3).open()) == [("a", 90, 10), ("a", 50, 40)]
    assert levels_of(RankedCandidates(folder, pairs=3, margin=0.2).open()) == [("a", 90, 10)]


def test_rewards_order_the_images_instead_of_the_job_s_scores(tmp_path):
    right, wrong = (render(parse(one), 32, np.random.default_rng(0)) for one in ("a big red circle", "a big blue ring"))
    rows = [("a big red circle", 1.0, wrong), ("a big red circle", 0.0, right)]
    source = RankedCandidates(written(tmp_path / "job", rows), {"reader": ReadScenes()}).open()
    np.testing.assert_array_equal(source[0]["image"], right)
    np.testing.assert_array_equal(source[0]["rejected"], wrong)


def test_the_fingerprint_changes_with_the_pairs(tmp_path):
    folder = written(tmp_path / "job", ROWS)
    found = [RankedCandidates(folder, pairs=pairs).open().fingerprint() for pairs in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("a", None, grey(1)), ("a", 0.5, grey(2))], {}, r"expected a score of every image, got none of 1 of 2 in"),
        (ROWS, {"margin": 0.8}, r"differ by more than margin 0\.8, got none among 3 prompts of up to 5 images"),
        ([ROWS[7]], {}, "got none among 1 prompts of up to 1 images in .*sample with --keep above 1"),
        (
            [("a big red circle", 0, grey(1)), ("a big red circle", 1, np.zeros((16, 16, 3), np.uint8))],
            {"rewards": {"reader": ReadScenes()}},
            r"expected images of one size, got \(8, 8\) and \(16, 16\)",
        ),
    ],
)  # fmt: skip
def test_a_folder_without_pairs_is_refused_in_one_line(rows, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        RankedCandidates(written(tmp_path / "job", rows), **changes).open()


def test_a_folder_without_tars_and_a_broken_image_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected files, or folders with \.tar in them; found nothing for .*empty"):
        RankedCandidates(str(tmp_path / "empty")).open()
    folder = Path(written(tmp_path / "job", ROWS))
    tar = folder / "00000.tar"
    content = tar.read_bytes()
    at = content.index(b"IDAT")
    tar.write_bytes(content[: at + 6] + b"\0\0\0\0" + content[at + 10 :])
    with pytest.raises(UserError, match="000000000: expected an image, got"):
        levels_of(RankedCandidates(str(folder)).open())
