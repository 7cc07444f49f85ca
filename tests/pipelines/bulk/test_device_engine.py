import jax.numpy as jnp
import numpy as np
import pytest
from small_bulk import WORDS, small_pipeline

from dalle_jax.pipelines.bulk.device_engine import BulkEngine, DeviceEngine, group_size
from dalle_jax.pipelines.bulk.pipeline_engine import PipelineEngine
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, Survey
from dalle_jax.pipelines.request import Request, RequestOptions

COUNTS = (3, 12, 3, 12, 3)


@pytest.fixture(scope="module")
def pipeline():
    return small_pipeline()


def requests(counts=COUNTS, keep=3, negative=None, **options) -> list[NumberedRequest]:
    return [
        NumberedRequest(
            number,
            Request(
                WORDS[number % len(WORDS)],
                RequestOptions(candidates=count, keep=min(keep, count), seed=number, **options),
                negative_prompt=negative if number % 2 else None,
            ),
        )
        for number, count in enumerate(counts)
    ]


def survey(given: list[NumberedRequest]) -> Survey:
    options = [one.request.options for one in given]
    counts = [one.candidates for one in options]
    return Survey(
        prompts=len(given), sha256="", candidates={count: counts.count(count) for count in counts},
        kept=sum(one.kept for one in options), most_kept=max(one.kept for one in options),
        guided=any(one.guidance != 1.0 for one in options),
        negative=any(one.request.negative_prompt is not None for one in given), ignored=(),
    )  # fmt: skip


ENGINES = {}


def engine_of(pipeline, given) -> DeviceEngine:
    """Return an engine for these requests, which other requests of the same kind share."""
    found = survey(given)
    kind = pipeline, found.guided, found.most_kept, group_size(found, pipeline, 1)
    return ENGINES.setdefault(kind, DeviceEngine(pipeline, found))


def check_same_as_plain(pipeline, given, engine=None):
    """Assert that the engine's kept images, choices and scores are those of ``draw``."""
    engine = engine_of(pipeline, given) if engine is None else engine
    drawn = list(engine.draw(iter(given)))
    assert [one.number for one in drawn] == [one.number for one in given]
    for ours, theirs in zip(drawn, pipeline.draw([one.request for one in given]), strict=True):
        np.testing.assert_array_equal(ours.chosen, theirs.chosen)
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        if theirs.candidate_scores is None:
            assert ours.scores is None
        else:
            np.testing.assert_allclose(ours.scores, theirs.candidate_scores, atol=1e-5)
    return engine


def test_prompts_of_uneven_candidates_give_the_images_of_the_plain_path_and_compile_once(pipeline):
    given = requests()
    engine = engine_of(pipeline, given)
    list(engine.draw(iter(given)))
    slots = engine.queue(1)._engine
    compiled = (slots._insert, slots._advance, slots._read, pipeline.ranker._score_rows, engine._keep_best)
    assert [function.compiles() for function in compiled] == [1] * 5
    assert isinstance(engine, BulkEngine) and slots.group == 1
    check_same_as_plain(pipeline, given, engine)


def test_the_text_of_a_prompt_is_computed_once_though_it_fills_several_calls(pipeline, monkeypatch):
    counts, texts, ranked = (3, 12, 3, 30, 3, 1, 17), [], []
    given = requests(counts)
    engine = engine_of(pipeline, given)
    slots = engine.queue(1)._engine
    hold, vectors = slots.hold, pipeline.ranker.text_vectors_device
    monkeypatch.setattr(slots, "hold", lambda rows, negative: texts.extend(rows.tolist()) or hold(rows, negative))
    monkeypatch.setattr(
        pipeline.ranker, "text_vectors_device", lambda rows: ranked.extend(rows.tolist()) or vectors(rows)
    )
    check_same_as_plain(pipeline, given, engine)
    assert texts == pipeline.prompts.read([one.request.prompt for one in given]).tolist()
    assert len(ranked) <= 2 * len(given)  # padding


def test_prompts_whose_candidates_divide_share_contexts(pipeline):
    given = requests((4, 12, 4), guidance=2.0, negative="a green ring")
    assert check_same_as_plain(pipeline, given).queue(1)._engine.group == 4


def test_without_guidance_and_in_batches_that_no_prompt_divides_images_stay_the_same():
    check_same_as_plain(small_pipeline(batch=3), requests((1, 2, 4, 1, 3, 1), guidance=1.0))


def test_a_window_of_codes_draws_the_same_images(pipeline):
    given = requests((3, 12, 3), guidance=2.0, decoding="jacobi", window=3)
    assert check_same_as_plain(pipeline, given).queue(3)._engine.window == 3


def test_a_prompt_of_several_batches_keeps_its_best_and_later_candidates_are_those_of_the_plain_path(pipeline):
    check_same_as_plain(pipeline, requests((12, 12), guidance=2.0, temperature=0.8, first=7, top_k=6))


def test_a_negative_prompt_changes_the_images_of_its_own_prompt_alone(pipeline):
    given = requests(negative="a green ring")
    check_same_as_plain(pipeline, given)
    without, with_negative = (pipeline.draw([one.request for one in each]) for each in (requests(), given))
    same = [np.array_equal(a.candidates, b.candidates) for a, b in zip(without, with_negative, strict=True)]
    assert same[::2] == [True] * 3 and not all(same)


def test_without_a_clip_the_first_candidates_are_kept():
    check_same_as_plain(small_pipeline(ranked=False), requests((3, 3, 3)))


def test_the_draw_of_a_pipeline_gives_the_same_results(pipeline):
    given = requests()
    engine = PipelineEngine(pipeline, batch=8)
    check_same_as_plain(pipeline, given, engine)
    assert isinstance(engine, BulkEngine) and engine.flops_per_image() is None
    assert engine.tokenizers() == {"the model": pipeline.prompts.tokenizer, "CLIP": pipeline.ranker.text}


def test_requests_are_read_only_as_they_are_needed(pipeline):
    given, read = requests((3, 12) * 15), []
    stream = (read.append(one.number) or one for one in given)
    drawing = engine_of(pipeline, given).draw(stream)
    next(drawing)
    assert len(read) <= 12


def test_the_flops_of_an_image_grow_with_guidance(pipeline):
    plain, guided = (requests((4,) * 4, guidance=scale) for scale in (1.0, 2.0))
    few, many = (DeviceEngine(pipeline, survey(given)).flops_per_image() for given in (plain, guided))
    assert 1e3 < few < many < 3 * few


def test_images_of_other_sizes_than_clips_are_resized_on_the_devices_as_pillow_does():
    ranker = small_pipeline(clip_size=12).ranker
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    expected = ranker.similarity(images, WORDS[:2])  # [4 2]
    found = ranker.scores(jnp.asarray(images), WORDS[:2])
    np.testing.assert_allclose(found, [expected[:2, 0], expected[2:, 1]], atol=1e-6)
