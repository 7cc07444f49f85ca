import errno
import json
import os
import shutil
import signal
import tarfile
from collections import Counter

import numpy as np
import pytest
from fake_engine import FakeEngine, kept_images, scores, shard_files
from small_bulk import WORDS

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.pipelines.bulk import run_job as module
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.pipelines.bulk.prompt_files import PromptFiles
from dalle_jax.pipelines.bulk.run_job import run_job
from dalle_jax.pipelines.bulk.shards import BulkFolder
from dalle_jax.pipelines.request import RequestOptions

DEFAULTS = RequestOptions(candidates=5, keep=2, first=3, guidance=2.0)
MODELS = {"transformer": "0123456789abcdef" * 2, "clip": "fedcba9876543210" * 2}


@pytest.fixture
def prompts(tmp_path) -> list[str]:
    """Write two prompts files of 11 prompts together, two of them with options of their own."""
    (tmp_path / "a.txt").write_text("\n".join(WORDS) + "\n")
    rows = [{"prompt": "a star", "candidates": 9, "keep": 4, "seed": 8}, {"prompt": "a moon", "keep": 1}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(module, "engine_of", lambda *_: fake)
    return fake


def job_of(files, models=MODELS, shard_prompts=4, defaults=DEFAULTS) -> BulkJob:
    return BulkJob.of(files.survey(), models, {"candidates": defaults.candidates, "seed": defaults.seed}, shard_prompts)


def run(prompts, out, load=lambda: None, **changes) -> str:
    files = PromptFiles(prompts, changes.get("defaults", DEFAULTS))
    return run_job(load, files, files.survey(), job_of(files, **changes), out)


def test_each_prompts_best_images_are_in_tars_and_the_scores_of_all_candidates_beside(prompts, engine, tmp_path):
    out = tmp_path / "out"
    line = run(prompts, out)
    assert line.startswith(f"{out} has 23 images of 11 prompts in 3 tars; 0 of 3 shards were there already, 59 images")
    assert sorted(shard_files(out)) == sorted(
        ["manifest.json", *(f"0000{n}{end}" for n in range(3) for end in (".tar", ".parquet", "_stats.json"))]
    )
    images, rows = kept_images(out), scores(out)
    assert [one["key"] for one, _ in images[:3]] == ["000000000", "000000001", "000000002"]
    assert [one["key"] for one, _ in images[8:10]] == ["000010000", "000010001"]
    assert Counter(one["caption"] for one, _ in images) == {**dict.fromkeys(WORDS, 2), "a star": 4, "a moon": 1}
    assert len(rows) == 59 and [row["candidate"] for row in rows[:5]] == [3, 4, 5, 6, 7]
    by_key = {row["key"]: row for row in rows if row["key"] is not None}
    drawn = list(FakeEngine().draw(PromptFiles(prompts, DEFAULTS).requests(lambda _: True)))
    expected = [image for one in drawn for image in one.pixels]
    for (record, image), wanted in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, wanted)
        row = by_key.pop(record["key"])
        assert (record["width"], record["height"]) == (6, 4)
        assert {name: record[name] for name in ("candidate", "rank", "prompt_number", "seed")} == {
            name: row[name] for name in ("candidate", "rank", "prompt_number", "seed")
        }
        assert record["score"] == pytest.approx(row["score"], abs=1e-6) and record["caption"] == row["prompt"]
    assert not by_key and all(row["rank"] is None for row in rows if row["key"] is None)
    assert (out / "grid.png").exists()


def test_our_own_reader_of_webdatasets_reads_the_tars(prompts, engine, tmp_path):
    run(prompts, tmp_path / "out")
    records = WebDataset((str(tmp_path / "out"),), index_folder=str(tmp_path / "indexes")).open()
    assert len(records) == 23 and records[0].captions == (WORDS[0],) and records[22].captions == ("a moon",)


def test_without_scores_the_first_candidates_are_kept_and_scores_are_null(prompts, engine, tmp_path):
    engine.scored = False
    run(prompts, tmp_path / "out")
    assert all(row["score"] is None for row in scores(tmp_path / "out"))
    assert all(record["score"] is None for record, _ in kept_images(tmp_path / "out"))


def test_finished_shards_are_not_drawn_again_and_the_model_is_not_loaded(prompts, engine, tmp_path):
    out = tmp_path / "out"
    run(prompts, out)
    before = shard_files(out)
    for damage in (lambda: (out / "00001_stats.json").unlink(), lambda: (out / "00001.tar").write_bytes(b"short")):
        damage()
        engine.drawn.clear()
        assert "2 of 3 shards were there already, 20 images sampled" in run(prompts, out)
        assert engine.drawn == [4, 5, 6, 7] and shard_files(out) == before

    def load():
        raise AssertionError("the model was loaded")

    assert run(prompts, out, load).endswith("in 3 tars; 3 of 3 shards were there already")


class Killed(BaseException):
    """The end of a process at one moment."""


def dies_while(call) -> bool:
    """Return whether a call ends with ``Killed``."""
    try:
        call()
    except Killed:
        return True
    return False


def test_a_job_that_is_killed_at_any_write_resumes_to_the_same_bytes(prompts, engine, tmp_path, monkeypatch):
    run(prompts, tmp_path / "whole")
    expected, moments = shard_files(tmp_path / "whole"), 0
    while True:
        out, calls = tmp_path / f"killed-{moments}", []

        def dies(real, calls=calls, at=moments):
            def call(*args, **options):
                if len(calls) == at:
                    raise Killed
                calls.append(real)
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
            for owner, name in ((os, "replace"), (storage, "write"), (tarfile.TarFile, "addfile"), (os, "fsync")):
                patch.setattr(owner, name, dies(getattr(owner, name)))
            killed = dies_while(lambda out=out: run(prompts, out))
        finished = {name: content for name, content in shard_files(out).items() if name.endswith("_stats.json")}
        assert finished.items() <= expected.items()
        for stats in finished:  # a shard with stats is whole
            name = stats.removesuffix("_stats.json")
            assert all((out / (name + end)).read_bytes() == expected[name + end] for end in (".tar", ".parquet"))
        run(prompts, out)
        assert shard_files(out) == expected
        if not killed:
            break
        moments += 7
    assert moments > 60


def test_a_full_disk_is_one_line_and_leaves_nothing_that_looks_whole(prompts, engine, tmp_path, monkeypatch):
    out = tmp_path / "out"
    add = tarfile.TarFile.addfile

    def full(self, member, content):
        if member.name.startswith("00001"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, member, content)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(UserError, match=r"cannot write .*00001: No space left on device"):
            run(prompts, out)
    assert sorted(shard_files(out)) == ["00000.parquet", "00000.tar", "00000_stats.json", "manifest.json"]
    assert "1 of 3 shards were there already" in run(prompts, out)


def test_sigterm_ends_a_job_cleanly_and_costs_the_shard_in_work(prompts, engine, tmp_path, monkeypatch):
    out, draw, handler = tmp_path / "out", engine.draw, signal.getsignal(signal.SIGTERM)

    def signalled(requests):
        for one in draw(requests):
            if one.number == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            yield one

    with monkeypatch.context() as patch, module.interrupted_by_sigterm():
        patch.setattr(engine, "draw", signalled)
        with pytest.raises(KeyboardInterrupt):
            run(prompts, out)
    assert signal.getsignal(signal.SIGTERM) == handler
    assert sorted(shard_files(out)) == ["00000.parquet", "00000.tar", "00000_stats.json", "manifest.json"]
    assert "1 of 3 shards were there already" in run(prompts, out)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": MODELS | {"clip": "0" * 32}}, "models.clip was fedcba987654… and is 000000000000…"),
        ({"models": {"transformer": MODELS["transformer"]}}, "models.clip was fedcba987654… and is None"),
        ({"defaults": RequestOptions(candidates=6, keep=2)}, "options.candidates was 5 and is 6"),
        ({"shard_prompts": 5}, "shard_prompts was 4 and is 5"),
    ],
)
def test_the_folder_of_another_job_is_refused_with_the_difference(prompts, engine, tmp_path, changes, says):
    out = tmp_path / "out"
    run(prompts, out)
    before = shard_files(out)
    with pytest.raises(UserError) as caught:
        run(prompts, out, **changes)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert shard_files(out) == before


def test_other_prompts_are_refused_and_so_is_a_folder_of_other_files(prompts, engine, tmp_path):
    run(prompts, tmp_path / "out")
    with pytest.raises(UserError, match="prompts was 11 and is 9; prompts_sha256 was"):
        run(prompts[:1], tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scores.jsonl").write_text("")
    with pytest.raises(UserError, match=r"expected an empty folder, .*; found scores\.jsonl"):
        run(prompts, tmp_path / "other")
    assert sorted(shard_files(tmp_path / "other")) == ["scores.jsonl"]


def test_shards_are_shared_by_processes_and_every_process_has_its_own(prompts, tmp_path, monkeypatch):
    files = PromptFiles(prompts, DEFAULTS)
    job = job_of(files, shard_prompts=1)
    folder = BulkFolder(tmp_path / "out", job)
    folder.begin()
    missing, parts = module.missing_shards(folder), []
    assert missing == list(range(11))
    for process in range(3):
        monkeypatch.setattr(module.hosts, "process_index_and_count", lambda process=process: (process, 3))
        parts.append([one.number for one in module.requests_of(files, job, module.own_shards(missing))])
    assert parts == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]


def test_prompts_files_that_lose_rows_after_the_first_pass_are_an_error(prompts, engine, tmp_path):
    files = PromptFiles(prompts, DEFAULTS)
    survey = files.survey()
    fewer = PromptFiles(prompts[:1], DEFAULTS)
    with pytest.raises(UserError, match="expected files that stay as they are"):
        run_job(lambda: None, fewer, survey, job_of(files), tmp_path / "out")
    assert not (tmp_path / "out" / "00002_stats.json").exists()


def test_a_shard_has_at_most_ten_thousand_images(prompts):
    with pytest.raises(UserError, match=r"shard_prompts: expected 1 to 2500 prompts .* up to 4 images .* got 2501"):
        job_of(PromptFiles(prompts, DEFAULTS), shard_prompts=2501)
