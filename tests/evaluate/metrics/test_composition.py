import numpy as np
import pytest

from dalle_jax.evaluate.metrics.composition import SPLITS, Composition, evaluation_captions, measure_cell
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.scenes.grammar import is_held_out, parse, sample_scene
from dalle_jax.scenes.judge import DetectedScene, Judgement, Part
from dalle_jax.scenes.rendering import render


def judged_by_pixel(image, caption):
    """Judge an image right if its first pixel is 1, so that a test chooses the right candidates."""
    found = "red" if image[0, 0, 0] else "blue"
    return Judgement(
        caption, (Part("colour", "red", found), Part("shape", "circle", "circle")), DetectedScene(found, ())
    )


def cell_of(right, scores, level=1, split="seen"):
    right = np.asarray(right)
    images = np.zeros((*right.shape, 2, 2, 3), np.uint8)
    images[:, :, 0, 0, 0] = right
    captions = [f"caption {i}" for i in range(len(right))]
    return measure_cell(level, split, captions, images, np.asarray(scores, np.float64), judged_by_pixel)


def test_first_chosen_and_any_of_equal_their_definitions():
    rng = np.random.default_rng(0)
    right, scores = rng.random((50, 64)) < 0.1, rng.normal(size=(50, 64))
    cell, shown = cell_of(right, scores)
    rows = np.arange(50)
    assert cell.first == Share(int(right[:, 0].sum()), 50)
    assert set(cell.reranked) == {4, 16, 64}
    for n, share in cell.reranked.items():
        assert share == Share(int(right[rows, scores[:, :n].argmax(1)].sum()), 50)
    for n, share in cell.any_of.items():
        assert share == Share(int(right[:, :n].any(1).sum()), 50)
    assert [said.chosen_index for said in shown] == scores[:, :16].argmax(1).tolist()
    assert [said.chosen.right for said in shown] == right[rows, scores[:, :16].argmax(1)].tolist()


def test_only_candidates_that_a_share_needs_are_judged():
    read = []

    def judge(image, caption):
        read.append(caption)
        return judged_by_pixel(image, caption)

    scores = np.zeros((1, 64))
    scores[0, 40] = 1.0
    measure_cell(1, "seen", ["a"], np.zeros((1, 64, 2, 2, 3), np.uint8), scores, judge)
    assert len(read) == 17


def test_a_second_reader_judges_first_candidates_and_choices():
    images = np.zeros((2, 2, 2, 2, 3), np.uint8)
    images[:, :, 0, 0] = [[(1, 0, 0), (0, 1, 0)], [(1, 1, 0), (0, 0, 0)]]  # red for the first reader, green the second
    scores = np.array([[0.0, 1.0], [0.0, 1.0]])

    def second(image, caption):
        return judged_by_pixel(image[..., [1]], caption)

    cell, _ = measure_cell(1, "seen", ["a", "b"], images, scores, judged_by_pixel, second)
    assert cell.second is not None and cell.first == Share(2, 2) and cell.second.first == Share(1, 2)
    assert cell.second.chosen == Share(1, 2) and cell.second.agrees == Share(2, 4)
    assert Composition((cell,)).to_json()["level_1"]["seen"]["second_reader"] == {
        "first": 0.5, "chosen": 0.5, "agrees": 0.5
    }  # fmt: skip


def test_a_single_candidate_gives_no_reranked_share():
    cell, _ = cell_of([[True], [False]], [[0.1], [0.2]])
    assert (cell.reranked, cell.any_of, cell.chosen_of, cell.chosen) == ({}, {}, 1, Share(1, 2))
    assert Composition((cell,)).to_json()["level_1"]["seen"]["first"] == 0.5


def test_parts_are_counted_separately_for_the_first_candidate_and_the_choice():
    cell, _ = cell_of([[False, True, False, False]] * 2, [[0, 1, 0, 0], [0, 0, 1, 0]])
    colour, shape = cell.parts
    assert (colour.name, colour.first, colour.chosen) == ("colour", Share(0, 2), Share(1, 2))
    assert (shape.name, shape.first, shape.chosen) == ("shape", Share(2, 2), Share(2, 2))


def test_the_json_has_the_documented_keys():
    cells = tuple(
        cell_of(np.ones((3, 16), bool), np.zeros((3, 16)), level, split)[0] for level in (1, 2) for split in SPLITS
    )
    out = Composition(cells).to_json()
    for level in ("level_1", "level_2"):
        for split in SPLITS:
            found = out[level][split]
            for key in ("first", "reranked_4", "reranked_16", "any_of_16"):
                assert found[key] == 1.0
                assert found["interval_95"][key] == [pytest.approx(0.4385, abs=1e-4), 1.0]
            assert found["count"] == 3
            assert "reranked_64" not in found


def test_a_wrong_number_of_images_is_refused():
    with pytest.raises(ValueError, match="expected 3 rows each, one per caption, got 2, 2"):
        measure_cell(1, "seen", ["a", "b", "c"], np.zeros((2, 4, 2, 2, 3), np.uint8), np.zeros((2, 4)), judged_by_pixel)


def test_true_images_of_every_level_are_right_and_images_of_other_captions_are_wrong():
    rng = np.random.default_rng(3)
    for level in (1, 2, 4):
        captions = evaluation_captions(level, "seen", 4, seed=1)
        true = np.stack([render(parse(caption), 48, rng) for caption in captions])
        wrong = np.roll(true, 1, axis=0)
        images = np.stack([wrong, true, wrong, wrong], axis=1)
        cell, _ = measure_cell(level, "seen", captions, images, np.tile([0.0, 1.0, 0.0, 0.0], (4, 1)))
        assert (cell.first, cell.reranked[4], cell.any_of[4]) == (Share(0, 4), Share(4, 4), Share(4, 4))


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 6])
def test_evaluation_captions_are_deterministic_distinct_and_of_their_split(level):
    for split in SPLITS:
        captions = evaluation_captions(level, split, 60, seed=5)
        assert captions == evaluation_captions(level, split, 60, seed=5)
        assert captions[:20] == evaluation_captions(level, split, 20, seed=5)
        assert len(set(captions)) == 60
        assert {is_held_out(parse(caption)) for caption in captions} == {split != "seen"}
        assert {parse(caption).level for caption in captions} == {level}
    assert captions != evaluation_captions(level, "held_out", 60, seed=6)


def test_captions_repeat_when_the_level_has_too_few(monkeypatch):
    few = [sample_scene(1, np.random.default_rng(0), "train")]
    monkeypatch.setattr("dalle_jax.scenes.grammar.sample_scene", lambda level, rng, split: few[0])
    captions = evaluation_captions(1, "seen", 14, seed=0)
    assert len(captions) == 14
    assert len(set(captions[:10])) == 10  # five phrasings with two words for the size
    assert set(captions[10:]) <= set(captions[:10])
