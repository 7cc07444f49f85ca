"""SIGKILL at random moments of training, encoding and importing, on one process and on two: nothing is lost.

Each command is killed again and again. Whenever it ends by itself, its folder must equal that of a run that was never
killed, and the next folder begins. ``KILLS=100 make test-slow`` kills each of the six a hundred times.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalle_jax.data.precomputed.manifest import read_manifest
from dalle_jax.train.checkpoints import checksums
from dalle_jax.train.checkpoints.recovery import whole_steps
from tests.kills.killed_runs import KilledRun, Starter, Tally, arrays, contents, starter
from tests.small_glide import published_glide
from tests.small_training import STEPS, TRAINING, write_tars

KILLS = int(os.environ.get("KILLS", "20"))
ENCODING = """
run = @EncodeRun
image_tokenizer = '{tokenizer}'
image_size = 8
batch_size = 4
shard_examples = 1
crops = 2
source = @WebDataset
source.files = ('{tars}',)
images = @Images
images.size = 8
"""
TIMES = ("speed/", "host/", "train/steps_per_second", "memory/")
"""Beginnings of the names of metrics that depend on the clock."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    return write_tars(tmp_path_factory.mktemp("kills") / "tars")


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[Starter]:
    with starter(tmp_path_factory.mktemp("starter")) as one:
        yield one


def kill(run: KilledRun, capsys) -> Tally:
    """Kill a run ``KILLS`` times."""
    run.undisturbed(run.folder / "first")  # compiles
    seconds = run.undisturbed(run.folder / "whole")
    tally = run.survive(KILLS, run.processes, 1.2 * seconds, run.progress(run.folder / "whole"))
    with capsys.disabled():
        print(f"\n{type(run).__name__} on {run.processes}: {seconds:.1f} s alone, {tally}")
    assert tally.kills == KILLS and tally.compared > 0
    return tally


class Training(KilledRun):
    """Training of an image tokenizer on tars, one of whose images is damaged."""

    pause = 0.2

    def command(self, out):
        return ["train", str(self.folder / "train.gin"), "--out", str(out)]

    def progress(self, out):
        begun = [one.name.partition(".")[0] for one in out.glob("checkpoints/[0-9]*")]
        return max(map(int, begun), default=0)

    def check_left(self, out):
        steps = whole_steps(out / "checkpoints")
        if not steps:
            return "no checkpoint"
        assert checksums.damage(out / "checkpoints" / str(steps[-1])) is None
        return "all steps" if steps[-1] == STEPS else "some steps"

    def check_same(self, out):
        whole = self.folder / "whole"
        assert metrics(out) == metrics(whole)
        assert arrays(out / "checkpoints" / str(STEPS)) == arrays(whole / "checkpoints" / str(STEPS))
        patterns = ("images/*", "records.json", "config.gin", "model.gin", "usable-*")
        assert contents(out, *patterns) == contents(whole, *patterns)
        assert not list(out.glob("checkpoints/*.damaged*")) and not (out / ".lock").exists()


def metrics(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMES)} for line in lines]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_training_has_the_metrics_and_weights_of_an_undisturbed_run(started, tars, tmp_path, capsys, processes):
    (tmp_path / "train.gin").write_text(TRAINING.format(tars=tars))
    tally = kill(Training(started, tmp_path, processes), capsys)
    assert tally.left["some steps"]


class Encoding(KilledRun):
    """Encoding of the tars with the tokenizer, two crops of each image."""

    pause = 0.01

    def command(self, out):
        return ["encode", str(self.folder / "encode.gin"), "--out", str(out)]

    def progress(self, out):
        return len(list(out.glob("*.array_record")))

    def check_left(self, out):
        if not (out / "manifest.json").exists():
            return "some shards" if list(out.glob("*.array_record")) else "no shard"
        assert contents(out, "*.array_record") == contents(self.folder / "whole", "*.array_record")
        return "all shards"

    def check_same(self, out):
        whole = self.folder / "whole"
        patterns = ("*.array_record", "manifest.json", "encoding.json", "progress/*")
        assert contents(out, *patterns) == contents(whole, *patterns)
        assert len(read_manifest(out).shards) == len(list(out.glob("*.array_record"))) > 3
        assert not [path for path in out.glob(".*") if not path.name.startswith(".checked-")]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_encoding_has_the_shards_of_an_undisturbed_run(started, tars, tmp_path, capsys, processes):
    (tmp_path / "train.gin").write_text(TRAINING.format(tars=tars))
    Training(started, tmp_path, 1).undisturbed(tmp_path / "tokenizer")
    (tmp_path / "encode.gin").write_text(ENCODING.format(tars=tars, tokenizer=tmp_path / "tokenizer"))
    tally = kill(Encoding(started, tmp_path, processes), capsys)
    assert tally.left["some shards"]


class Importing(KilledRun):
    """The import of GLIDE's two networks; two processes are two imports into one folder, of which one is refused."""

    pause = 0.02

    def command(self, out):
        return ["import", "glide-text2im", str(self.folder / "published"), str(out)]

    def finished(self, codes):
        return codes.count(0) >= 1 and codes.count(0) + codes.count(2) == self.processes

    def progress(self, out):
        return len(list(out.rglob("[!.]*")))

    def check_left(self, out):
        if (out / "glide.gin").exists():
            self.check_same(out)
            return "whole"
        parts = [one.parent for one in out.glob("*/checkpoints") if whole_steps(one)]
        for part in parts:  # a part with a checkpoint is whole
            self._check_part(part)
        return f"{len(parts)} parts"

    def check_same(self, out):
        whole = self.folder / "whole"
        assert contents(out, "*.gin") == contents(whole, "*.gin")
        for part in ("base", "upsampler"):
            self._check_part(out / part)

    def _check_part(self, part):
        whole = self.folder / "whole" / part.name
        assert contents(part, "*") == contents(whole, "*")
        assert arrays(part / "checkpoints/0") == arrays(whole / "checkpoints/0")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_imports_are_absent_or_whole_and_complete_when_repeated(started, tmp_path, capsys, processes):
    published_glide(tmp_path / "published", ("base.pt", "upsample.pt"))
    kill(Importing(started, tmp_path, processes, joined=False), capsys)
