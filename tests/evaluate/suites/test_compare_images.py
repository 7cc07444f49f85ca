import numpy as np
import pytest
from image_files import ColourNames, MeanColours, write_images

from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.folder import Folder
from dalle_jax.evaluate.report.evaluation_page import evaluation_page
from dalle_jax.evaluate.suites.compare_images import CompareImages, compare_images
from dalle_jax.evaluate.suites.feature_comparison import nearest
from dalle_jax.evaluate.suites.image_sets import RecordImages

EXTRACTORS = {"mean-colours": MeanColours()}


def folder_set(folder):
    return RecordImages(folder.name, Folder(str(folder), captioned=False).open())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("sets")
    sizes = {"one": (150, 0), "other": (150, 0), "brighter": (150, 40)}
    return {
        name: write_images(top / name, count, seed=number, shift=shift)
        for number, (name, (count, shift)) in enumerate(sizes.items())
    }


def measured(folders, images, against, **options):
    sets = folder_set(folders[images]), folder_set(folders[against])
    lines = []
    return compare_images(*sets, EXTRACTORS, None, CompareImages(shown=4, **options), lines.append), lines


@pytest.fixture(scope="module")
def brighter(folders):
    return measured(folders, "brighter", "one")


def test_a_shifted_set_is_farther_than_another_sample_and_itself_is_nearest(folders, brighter):
    same = measured(folders, "one", "one")[0].by_features["mean-colours"]
    sample = measured(folders, "other", "one")[0].by_features["mean-colours"]
    values = {one.name: (a.value, b.value, one.value) for a, b, one in zip(
        same, sample, brighter[0].by_features["mean-colours"], strict=True)}  # fmt: skip
    for name in ("fd", "mind"):
        assert values[name][0] == pytest.approx(0, abs=1e-3)
        assert 2 * values[name][1] < values[name][2]
    assert values["precision"][0] == values["coverage"][0] == 1.0
    assert values["kid"][1] < values["kid"][2]


def test_json_page_and_line_hold_the_same_figures(brighter):
    found, lines = brighter
    content = found.to_json()
    assert content["sets"] == [{"name": "brighter", "count": 150}, {"name": "one", "count": 150}]
    fd = content["mean-colours"]["fd"]
    assert fd["features"] == "mean-colours none" and fd["count"] == fd["reference_count"] == 150
    page = evaluation_page("a page", "evaluation.json", {"images": found.panel()})
    assert f'<data value="{fd["value"]!r}" data-path="images/mean-colours/fd/value">' in page
    assert any(line.startswith(f"mean-colours: fd {fd['value']:.4g}, kid ") for line in lines)


def test_the_farthest_images_are_shown_first(brighter):
    far, missing = brighter[0].images
    notes = [float(one.note.removeprefix("distance ")) for one in far.images]
    assert len(notes) == 4 and notes == sorted(notes, reverse=True)
    assert far.title.startswith("brighter: the farthest") and missing.title.startswith("one: the farthest")


def test_nearest_distances_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(20, 5)).astype(np.float32)
    every = np.linalg.norm(x[:, None] - y[None], axis=-1)
    own, reverse = nearest(x, y)
    np.testing.assert_allclose(own, every.min(axis=1), rtol=1e-4)
    np.testing.assert_allclose(reverse, every.min(axis=0), rtol=1e-4)


def test_a_clip_scores_images_by_their_captions_and_shows_the_worst_first(tmp_path):
    folder = write_images(tmp_path / "two_exchanged", 120, seed=0)
    one, other = folder / "0003.txt", folder / "0077.txt"
    texts = one.read_text(), other.read_text()
    one.write_text(texts[1])
    other.write_text(texts[0])
    found = compare_images(folder_set(folder), None, {}, ColourNames(), CompareImages(shown=4), print)
    content = found.to_json()["captions"]
    assert content["retrieval_top1"]["value"] == pytest.approx(118 / 120)
    assert 90 < content["clip_score"]["value"] < 99.9
    shown = found.images[0].images
    assert {one.caption for one in shown[:2]} == set(texts)
    scores = [float(one.note.removeprefix("CLIPScore ")) for one in shown]
    assert len(scores) == 4 and scores == sorted(scores) and scores[1] < 90 < scores[2]


def test_too_few_images_are_one_line(folders):
    with pytest.raises(UserError, match=r"fd: expected at least 13 reference images, .*; got 10"):
        measured(folders, "one", "other", count=10)


def test_sets_of_other_sizes_are_one_line(folders, tmp_path):
    large = write_images(tmp_path / "large", 20, seed=4, size=16)
    with pytest.raises(UserError, match="expected images of one size, got 8x8 and 16x16"):
        compare_images(folder_set(large), folder_set(folders["one"]), EXTRACTORS, None, CompareImages(), print)


def test_an_image_without_a_caption_cannot_be_scored(tmp_path):
    bare = write_images(tmp_path / "bare", 3, seed=1, captions=False)
    with pytest.raises(UserError, match="captions: expected one for each image that a CLIP scores, got none for num"):
        compare_images(folder_set(bare), None, {}, ColourNames(), CompareImages(), print)


def test_features_that_are_not_numbers_are_one_line(folders):
    class Broken(MeanColours):
        def features(self, images):
            return super().features(images) * np.nan

    sets = folder_set(folders["one"]), folder_set(folders["other"])
    with pytest.raises(UserError, match=r"features: expected finite numbers, got NaN or infinity for 100 of 100"):
        compare_images(*sets, {"broken": Broken()}, None, CompareImages(), print)
