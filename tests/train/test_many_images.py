"""Bad records of every kind on one host: hosts stay at the same step, stop together and share a report."""

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from dalle_jax.train.checkpoints.checkpoints import whole_steps
from tests.command_processes import finish, start_processes
from tests.data.damaged import KINDS, shard, spoil
from tests.train.many_images import BATCH, STEPS

CHILD = Path(__file__).with_name("many_images.py")
COUNT = 120
BAD = {60 + 10 * number: kind for number, kind in enumerate(KINDS)}
"""One of each kind that is found on reading, 5 % of all, in the second shard; what its headers tell comes on top."""
WAIT = 150


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "tars"
    folder.mkdir()
    shard(folder / "0.tar", 0, 60)
    assert spoil(shard(folder / "1.tar", 60, 60, BAD), 120, again="00061") == HEADERS
    return folder


def start(
    out: Path, tars: Path, processes: int, validate: str, bad_share: float = 0.1, pause: float = 0.0
) -> list[subprocess.Popen]:
    process = [str(CHILD), str(out), str(tars), validate, str(bad_share), str(pause)]
    return start_processes([process] * processes, devices=2 // processes)


def well(started: list[subprocess.Popen]) -> list[str]:
    ended = finish(started)
    assert [code for code, _, _ in ended] == [0] * len(started), ended
    return [out + error for _, out, error in ended]


def given(out: Path) -> dict[tuple[int, int], str]:
    """Return the key of each row of each step; a row that was given before and after a kill must be the same."""
    found: dict[tuple[int, int], str] = {}
    for file in out.parent.glob(f"{out.name}.notes-*"):
        for line in file.read_text().splitlines():
            step, row, key = line.split()
            assert found.setdefault((int(step), int(row)), key) == key
    return found


def report(out: Path) -> dict[str, list[str]]:
    """Return the keys of the bad records by kind; a record that was counted twice occurs twice."""
    content = json.loads((out / "records.json").read_text())["source"]["report"]
    assert all(found["count"] == len(found["records"]) for found in content["bad"].values())
    return {kind: sorted(one["key"] for one in found["records"]) for kind, found in content["bad"].items()}


HEADERS = {
    "duplicate key": "00061", "link": "00120", "path outside": "../00121", "no caption": "00122",
    "broken tail": "1.tar",
}  # fmt: skip
EXPECTED = {kind: [key] for kind, key in HEADERS.items()}
for number, kind in BAD.items():
    EXPECTED[kind] = sorted([*EXPECTED.get(kind, []), f"{number:05d}"])


@pytest.fixture(scope="module")
def alone(tars, tmp_path_factory) -> dict[tuple[int, int], str]:
    out = tmp_path_factory.mktemp("alone") / "run"
    well(start(out, tars, 1, "pixels"))
    assert report(out) == EXPECTED
    return given(out)


def test_every_good_record_comes_once_per_epoch(alone):
    order = [alone[step, row] for step in range(STEPS) for row in range(BATCH)]
    epoch = COUNT - len(BAD) - 8
    assert set(Counter(order[:epoch]).values()) == {1}
    assert len(set(order[:epoch])) == epoch
    assert not {int(key) for key in order} & BAD.keys()


@pytest.mark.slow
def test_without_validation_hosts_with_bad_records_stay_at_one_step_and_share_the_report(tars, tmp_path):
    out = tmp_path / "run"
    well(start(out, tars, 2, "none"))
    assert report(out) == EXPECTED  # 24 steps are more than an epoch and a half, and evaluation reads what is held out
    assert len(given(out)) == STEPS * BATCH


def test_too_many_bad_records_stop_both_hosts_with_the_same_line(tars, tmp_path):
    ended = finish(start(tmp_path / "run", tars, 2, "none", bad_share=0.01))
    assert [code for code, _, _ in ended] == [2, 2], ended
    errors = [[line for line in one.splitlines() if line.startswith("dalle-jax: error:")] for _, _, one in ended]
    assert errors[0] == errors[1] and len(errors[0]) == 1
    assert "records are bad" in errors[0][0] and "bad_share allows 1.0%" in errors[0][0]


@pytest.mark.slow
def test_two_hosts_killed_and_restarted_get_the_rows_of_an_uninterrupted_run(alone, tars, tmp_path):
    out = tmp_path / "run"
    started = start(out, tars, 2, "pixels", pause=0.5)
    began = time.monotonic()
    while not (out / "checkpoints").is_dir() or 8 not in whole_steps(out / "checkpoints"):
        assert all(process.poll() is None for process in started) and time.monotonic() - began < WAIT
        time.sleep(0.05)
    for process in started:
        process.send_signal(signal.SIGKILL)
    finish(started)
    assert max(step for step, _ in given(out)) < STEPS - 1
    said = well(start(out, tars, 2, "pixels"))
    assert all(f"interrupted=False step={STEPS}" in one for one in said)
    assert given(out) == alone
    assert report(out) == EXPECTED
    told = "source: 120 of 125 records read; bad: 2 no caption ("
    assert told in said[0] and "records read" not in said[1]
