"""Processes of a bulk job that are killed at random moments."""

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fake_engine import kept_images, scores
from small_bulk import WORDS

from tests.command_processes import ends, finish, start_processes, start_python

CHILD = str(Path(__file__).parent / "bulk_child.py")
KILLS, SHARDS = 20, 48


def start(out, prompts, pause=0.0, processes=2, together="apart", devices=1):
    arguments = [CHILD, str(out), str(pause), together, *prompts]
    return [start_python(arguments)] if processes == 1 else start_processes([arguments] * processes, devices)


def finished(out) -> set[str]:
    return {path.name for path in out.glob("*_stats.json")}


def succeed(started) -> list[str]:
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    return [text for _, text, _ in ended]


def check_same(out, whole, prompts):
    """Assert that both jobs kept the same images, two for each prompt, with the same scores."""
    ours, theirs = kept_images(out), kept_images(whole)
    assert Counter(record["prompt_number"] for record, _ in ours) == dict.fromkeys(range(prompts), 2)
    for (record, image), (expected, wanted) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(image, wanted)
        assert record | {"score": None} == expected | {"score": None}
    for ours_row, theirs_row in zip(scores(out), scores(whole), strict=True):
        assert ours_row | {"score": None} == theirs_row | {"score": None}
        assert ours_row["score"] == pytest.approx(theirs_row["score"], abs=1e-5)


@pytest.mark.slow
def test_a_job_killed_twenty_times_at_random_draws_every_prompt_once_with_the_images_of_an_undisturbed_one(tmp_path):
    words = WORDS * 6
    rows = [{"prompt": word, "candidates": 3 + 5 * (n % 3), "seed": n} for n, word in enumerate(words)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("\n".join(f"{word} again" for word in words[: 2 * SHARDS - len(rows)]))
    prompts = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")]
    whole, out, rng = tmp_path / "whole", tmp_path / "out", random.Random(0)
    succeed(start(whole, prompts, processes=1))
    died_writing = 0
    for kill in range(KILLS):
        before = finished(out)
        assert len(before) < SHARDS
        started = start(out, prompts, pause=0.2)
        if kill % 3 == 2:  # at any moment of the start
            time.sleep(rng.uniform(0.0, 4.0))
        else:  # while shards are written
            while len(finished(out)) <= len(before) and all(one.poll() is None for one in started):
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.4))
        for one in started:
            one.kill()
        texts = [one.communicate() for one in started]
        assert finished(out) >= before, texts
        died_writing += bool(list(out.glob(".writing-*/*")))
    assert died_writing > 5 and len(finished(out)) > 10
    (line,) = succeed(start(out, prompts, processes=1))
    assert f"has {4 * SHARDS} images of {2 * SHARDS} prompts in {SHARDS} tars" in line
    assert not list(out.glob(".writing-*")) and len(list(out.glob("*.tar"))) == SHARDS
    check_same(out, whole, 2 * SHARDS)


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_sigterm_to_one_of_two_processes_ends_both_cleanly_with_the_same_line(tmp_path, signalled):
    (tmp_path / "a.txt").write_text("\n".join(WORDS * 4))
    out = tmp_path / "out"
    started = start(out, [str(tmp_path / "a.txt")], pause=0.3)
    while not finished(out):
        assert all(one.poll() is None for one in started)
        time.sleep(0.05)
    started[signalled].send_signal(signal.SIGTERM)
    found = ends(started)
    assert [(code, err) for code, _, err in found] == [(130, "dalle-jax: interrupted")] * 2, found
    assert not list(out.glob(".writing-*")) and not (out / ".lock").exists()


@pytest.mark.slow
def test_processes_that_share_a_mesh_draw_the_same_images_and_the_first_one_writes(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(WORDS))
    prompts = [str(tmp_path / "a.txt")]
    succeed(start(tmp_path / "whole", prompts, processes=1))
    first, second = succeed(start(tmp_path / "out", prompts, together="together", devices=2))
    assert "has 18 images of 9 prompts in 5 tars; 0 of 5 shards were there already, 54 images sampled" in first
    assert "[sample 1]" not in second
    check_same(tmp_path / "out", tmp_path / "whole", len(WORDS))
