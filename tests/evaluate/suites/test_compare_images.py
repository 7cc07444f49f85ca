import numpy as np
import pytest
from image_files import ColourNames, MeanColours, MeanDistance, write_images

from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.folder import Folder
from dalle_jax.evaluate.report.evaluation_page import evaluation_page
from dalle_jax.evaluate.suites.compare_images import CompareImages, Judges, compare_images
from dalle_jax.evaluate.suites.feature_comparison import nearest
from dalle_jax.evaluate.suites.image_sets import RecordImages
from dalle_jax.evaluate.suites.sets.reference_sets import ReferenceImages, ReferenceStatistics

EXTRACTORS = Judges({"mean-colours": MeanColours()})


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
    sets = folder_set(folders[images]), ReferenceImages(folder_set(folders[against]))
    lines = []
    return compare_images(*sets, EXTRACTORS, CompareImages(shown=4, **options), lines.append), lines


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
    found = compare_images(folder_set(folder), None, Judges(clip=ColourNames()), CompareImages(shown=4), print)
    content = found.to_json()["captions"]
    assert content["retrieval_top1"]["value"] == pytest.approx(118 / 120)
    assert 90 < content["clip_score"]["value"] < 99.9
    shown = found.images[0].images
    assert {one.caption for one in shown[:2]} == set(texts)
    scores = [float(one.note.removeprefix("CLIPScore ")) for one in shown]
    assert len(scores) == 4 and scores == sorted(scores) and scores[1] < 90 < scores[2]


def test_too_few_images_are_one_line_with_the_bias(folders):
    bias = r"fd: expected at least 13 reference images, .*, and so few give \d\S* for two samples .*; got 10"
    with pytest.raises(UserError, match=bias):
        measured(folders, "one", "other", count=10)


def test_sets_of_other_sizes_are_one_line(folders, tmp_path):
    large = write_images(tmp_path / "large", 20, seed=4, size=16)
    reference = ReferenceImages(folder_set(folders["one"]))
    with pytest.raises(UserError, match="expected images of one size, got 8x8 and 16x16"):
        compare_images(folder_set(large), reference, EXTRACTORS, CompareImages(), print)


def test_an_image_without_a_caption_cannot_be_scored(tmp_path):
    bare = write_images(tmp_path / "bare", 3, seed=1, captions=False)
    with pytest.raises(UserError, match="captions: expected one for each image that a CLIP scores, got none for num"):
        compare_images(folder_set(bare), None, Judges(clip=ColourNames()), CompareImages(), print)


def test_features_that_are_not_numbers_are_one_line(folders):
    class Broken(MeanColours):
        def features(self, images):
            return super().features(images) * np.nan

    sets = folder_set(folders["one"]), ReferenceImages(folder_set(folders["other"]))
    with pytest.raises(UserError, match=r"features: expected finite numbers, got NaN or infinity for 100 of 100"):
        compare_images(*sets, Judges({"broken": Broken()}), CompareImages(), print)


class Classifier(MeanColours):
    """A classifier of two classes: brighter or darker than a grey."""

    name, classes = "brightness none", 2

    def probabilities_of_features(self, features):
        bright = (features.mean(axis=1) > 127).astype(np.float64)
        return np.stack([bright, 1 - bright], axis=1)

    def probabilities(self, images):
        return self.probabilities_of_features(self.features(images))


def test_the_inception_score_needs_no_reference_and_is_named_after_another_classifier(folders):
    images, config = folder_set(folders["one"]), CompareImages(inception_score=True)
    found = compare_images(images, None, Judges({"brightness": Classifier()}), config, print).to_json()["brightness"]
    assert 1.8 < found["is_of_brightness"]["value"] <= 2 and len(found) == 1
    with pytest.raises(UserError, match=r"is: expected inception:FILE among the features, .* got mean-colours"):
        compare_images(images, None, EXTRACTORS, config, print)


def test_candidates_of_a_prompt_are_found_by_their_caption_and_the_most_alike_shown_first(tmp_path):
    folder = write_images(tmp_path / "candidates", 12, seed=0)
    for number in range(12):
        (folder / f"{number:04}.txt").write_text(f"prompt {number % 4}" if number % 4 else f"alone {number}")
    (folder / "0005.png").write_bytes((folder / "0001.png").read_bytes())
    found = compare_images(folder_set(folder), None, Judges(lpips=MeanDistance()), CompareImages(shown=6), print)
    measured = found.to_json()["candidates"]["lpips_diversity"]
    colours = [[folder_set(folder).read([n]).images.mean() for n in range(first, 12, 4)] for first in (1, 2, 3)]
    pairs = [[abs(a - b) for a, b in ((x, y), (x, z), (y, z))] for x, y, z in colours]
    assert measured["value"] == pytest.approx(np.mean(pairs), rel=1e-4) and measured["count"] == 3
    least = int(np.argmin(np.mean(pairs, axis=1))) + 1
    assert [one.caption for one in found.images[0].images[:3]] == [f"prompt {least}"] * 3
    lone = folder_set(write_images(tmp_path / "lone", 3, seed=0))
    with pytest.raises(UserError, match="lpips_diversity: expected two images or more of one caption, got none in"):
        compare_images(lone, None, Judges(lpips=MeanDistance()), CompareImages(), print)


def test_features_of_a_reference_are_kept_until_an_image_or_the_count_changes(folders, tmp_path, monkeypatch):
    real = write_images(tmp_path / "real", 110, seed=7)
    seen = []
    monkeypatch.setattr(MeanColours, "features", lambda self, images, old=MeanColours.features: (
        seen.append(len(images)), old(self, images))[1])  # fmt: skip

    def mind(count=None):
        reference = ReferenceImages(folder_set(real), tmp_path / "statistics")
        config = CompareImages(("mind",), count, shown=1)
        seen.clear()
        found = compare_images(folder_set(folders["one"]), reference, EXTRACTORS, config, print)
        return found.to_json()["mean-colours"]["mind"]["value"], sum(seen)

    first, counted = mind()
    assert counted == 150 + 110 and mind() == (first, 150)
    assert mind(count=105)[1] == 105 + 105
    name, other = (real / "0003.png"), (real / "0004.png").read_bytes()
    name.write_bytes(other)
    changed, counted = mind()
    assert counted == 150 + 110 and changed != first
    kept = min((tmp_path / "statistics").iterdir())
    reference = ReferenceStatistics(kept)
    found = compare_images(folder_set(folders["one"]), reference, EXTRACTORS, CompareImages(("mind",)), print)
    assert [one.title.partition(":")[0] for one in found.images] == ["one"]
