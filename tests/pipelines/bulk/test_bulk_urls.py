"""Bulk sampling with prompts and output at URLs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import FakeEngine, shard_files
from small_bulk import WORDS

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.bulk import run_job as module
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.pipelines.bulk.prompt_files import PromptFiles
from dalle_jax.pipelines.request import RequestOptions
from tests.train.stores import amazon, google

DEFAULTS = RequestOptions(candidates=5, keep=2)


@pytest.fixture(scope="module", params=[amazon, google], ids=["s3", "gs"])
def bucket(request) -> Iterator[str]:
    with request.param() as url:
        yield url


def run(prompts: list[str], out, shard_prompts: int = 4) -> str:
    files = PromptFiles(prompts, DEFAULTS)
    survey = files.survey()
    return module.run_job(lambda: None, files, survey, BulkJob.of(survey, {}, {}, shard_prompts), out)


def test_shards_are_uploaded_whole_and_a_stopped_job_resumes_at_the_url(bucket, tmp_path, monkeypatch):
    engine = FakeEngine()
    monkeypatch.setattr(module, "engine_of", lambda *_: engine)
    storage.write(storage.place(f"{bucket}/prompts.txt"), "\n".join(WORDS).encode())
    out = storage.place(f"{bucket}/out")
    assert "has 18 images of 9 prompts in 3 tars" in run([f"{bucket}/prompts.txt"], out)
    (tmp_path / "prompts.txt").write_text("\n".join(WORDS))
    run([str(tmp_path / "prompts.txt")], tmp_path / "out")
    expected = shard_files(tmp_path / "out")
    there = storage.files(out)
    assert there.keys() == {*expected, "grid.png"}
    assert {name: storage.read(out / name) for name in expected} == expected
    storage.remove_file(out / "00001_stats.json")
    storage.write(out / "00002.tar", b"cut off")
    engine.drawn.clear()
    assert "1 of 3 shards were there already" in run([f"{bucket}/prompts.txt"], out)
    assert engine.drawn == [4, 5, 6, 7, 8]
    assert {name: storage.read(out / name) for name in expected} == expected
    with pytest.raises(UserError, match="shard_prompts was 4 and is 3"):
        run([f"{bucket}/prompts.txt"], out, shard_prompts=3)
    assert not list(Path(tmp_path).glob("dalle_jax-*"))
