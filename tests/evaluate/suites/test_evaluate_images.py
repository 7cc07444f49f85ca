import numpy as np
import pytest
from image_files import ColourNames, MeanColours, MeanDistance

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.suites import evaluate_images as suite
from dalle_jax.evaluate.suites.drawing import Drawing
from dalle_jax.evaluate.suites.evaluate_images import EvaluateImages, evaluate_images
from dalle_jax.evaluate.suites.panels import scalars_of
from dalle_jax.pipelines.bulk.device_engine import DrawnPrompt

SIZE = 8
EXTRACTORS = {"mean-colours": MeanColours()}


def noisy(colour, rng):
    return np.clip(np.array(colour) + rng.integers(-15, 16, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


class ColourEngine:
    """A bulk engine whose candidate 1 has the prompt's colour and the best score; all others are grey."""

    def __init__(self):
        self.seeds = []

    def draw(self, requests):
        for number, request in requests:
            options = request.options
            self.seeds.append(options.seed)
            rng = np.random.default_rng(options.seed)
            images = [noisy((120, 120, 120), rng) for _ in range(options.candidates)]
            images[1] = noisy([int(one) for one in request.prompt.split()], rng)
            scores = np.arange(options.candidates) == 1
            chosen = np.argsort(~scores, kind="stable")
            yield DrawnPrompt(number, request, np.stack(images)[chosen], chosen, scores.astype(np.float32))

    def flops_per_image(self):
        return None

    def tokenizers(self):
        return {}


def held_out(count, seed, batch=50):
    rng = np.random.default_rng(seed)
    for start in range(0, count, batch):
        colours = rng.integers(20, 235, (min(batch, count - start), 3))
        images = [noisy(colour, rng) for colour in colours]
        yield {"image": images, "caption": [" ".join(map(str, one)) for one in colours]}


@pytest.fixture(scope="module")
def measured():
    engine, lines = ColourEngine(), []
    config = EvaluateImages(Drawing(candidates=3), captions=130, seed=7, shown=5, lpips="given")
    networks = EXTRACTORS, ColourNames()
    found = evaluate_images(engine, held_out(160, 0), *networks, config, lines.append, MeanDistance())
    return found, engine, lines


def test_clips_choice_is_nearer_to_the_held_out_images_than_the_first_candidate(measured):
    content = measured[0].to_json()
    first, chosen = (content[group]["mean-colours"] for group in ("first", "chosen"))
    assert 20 * chosen["fd"]["value"] < first["fd"]["value"] and chosen["mind"]["value"] < first["mind"]["value"]
    assert (first["fd"]["count"], first["fd"]["reference_count"], content["prompts"]) == (130, 130, 130)
    assert content["chosen"]["captions"]["clip_score"]["value"] > 90
    assert content["chosen"]["captions"]["retrieval_top1"]["value"] > 0.9
    assert content["first"]["captions"]["retrieval_top5"]["value"] < 0.5


def test_candidates_of_a_prompt_have_a_diversity(measured):
    one = measured[0].to_json()["candidates"]["lpips_diversity"]
    low, high = one["interval_95"]
    assert one["count"] == 130 and 10 < low < one["value"] < high < 60  # grey ones, and one of a random colour
    assert any(line.startswith("candidates: lpips_diversity ") for line in measured[2])
    with pytest.raises(ValueError, match="lpips: expected None with one candidate of each prompt"):
        EvaluateImages(Drawing(candidates=1), lpips="folder")


def test_each_prompt_has_a_seed_of_its_own(measured):
    assert measured[1].seeds == list(range(7, 137))


def test_the_page_shows_the_farthest_images_of_both_kinds(measured):
    panel = measured[0].panel()
    assert [len(group.images) for group in panel.images] == [5, 5]
    notes = [float(one.note.removeprefix("distance ")) for one in panel.images[1].images]
    assert notes == sorted(notes, reverse=True)
    assert scalars_of(panel)["first/mean-colours/fd"] == measured[0].to_json()["first"]["mean-colours"]["fd"]["value"]


def test_images_are_dropped_once_their_features_are_known(monkeypatch):
    monkeypatch.setattr(suite, "KEPT", 10)
    config = EvaluateImages(Drawing(candidates=2), captions=120, shown=20, distances=("mind",))
    found = evaluate_images(ColourEngine(), held_out(120, 0), EXTRACTORS, None, config, lambda line: None)
    assert [len(group.images) for group in found.images] == [10, 10]
    assert "the farthest of 10 from" in found.images[0].title


def test_no_held_out_captions_are_one_line():
    with pytest.raises(UserError, match="expected held-out captions to sample images of, got none"):
        evaluate_images(ColourEngine(), iter(()), EXTRACTORS, None, EvaluateImages(Drawing()), print)


def test_the_survey_counts_every_candidate():
    found = EvaluateImages(Drawing(candidates=4, guidance=2.0), captions=30).survey()
    assert (found.images, found.most_kept, found.guided) == (120, 4, True)
