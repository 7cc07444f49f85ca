"""Processes of one run train with one config, or not at all."""

import json
import socket

import pytest

from dalle_jax.config.bind import load
from dalle_jax.config.render import render
from dalle_jax.folder_lock import FILE
from dalle_jax.parallel.agreement import config_differences
from dalle_jax.runs import EncodeRun, TrainRun
from tests.command_processes import ROOT, ends, start_run

CONFIG = "smoke/tokenizer.gin"
FEW = ["--set=trainer.evaluate_every=None", "--set=trainer.images_every=None"]


def shared(*sets: str) -> str:
    return render(load(CONFIG, TrainRun, list(sets)), per_host=False)


def test_each_field_that_differs_is_named_with_its_values_and_the_hosts():
    texts = [shared(), shared("trainer.schedule.rate=1e-2", "trainer.seed=1"), shared("trainer.seed=1")]
    assert config_differences(texts, ["a", "b", "c"]) == [
        "trainer.seed is 0 on process 0 (a), 1 on process 1 (b) and 1 more",
        "trainer.schedule.rate is 0.001 on process 0 (a) and 1 more, 0.01 on process 1 (b)",
    ]


def test_a_field_of_one_variant_alone_is_not_set_on_the_others():
    texts = [shared(), shared("trainer.ema=@WarmedEma", "trainer.ema.decay=0.9999")]
    assert config_differences(texts, ["a", "b"]) == [
        "trainer.ema is None on process 0 (a), @WarmedEma on process 1 (b)",
        "trainer.ema.decay is not set on process 0 (a), 0.9999 on process 1 (b)",
    ]


def test_fields_of_one_host_alone_are_not_compared():
    assert shared("data.workers=3") == shared()
    codes = ["data.source=@Codes", "data.source.folder='codes'"]
    assert shared(*codes, "data.source.cache='a'") == shared(*codes, "data.source.cache='b'")
    texts = [
        render(load("smoke/encode.gin", EncodeRun, ["image_tokenizer='t'", f"workers={n}"]), per_host=False)
        for n in (0, 1)
    ]
    assert texts[0] == texts[1]
    assert "workers" not in texts[0]


@pytest.mark.parametrize(
    ("command", "config", "sets", "named"),
    [
        (
            "train",
            CONFIG,
            ["trainer.schedule.rate=1e-2", "trainer.seed=1"],
            "trainer.seed is 0 on process 0 ({host}), 1 on process 1 ({host}); "
            "trainer.schedule.rate is 0.001 on process 0 ({host}), 0.01 on process 1 ({host}). Start",
        ),
        pytest.param(
            "encode",
            "smoke/encode.gin",
            ["crops=2"],
            "crops is 1 on process 0 ({host}), 2 on process 1 ({host}). Start",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["train", "encode"],
)
def test_two_processes_with_different_configs_both_end_with_one_line_and_code_2(command, config, sets, named, tmp_path):
    out = tmp_path / "run"
    required = ["--set=image_tokenizer='t'"] if command == "encode" else []
    given = [command, config, "--out", str(out), *required]
    ended = ends(start_run([given, [*given, *(f"--set={one}" for one in sets)]]))
    for code, _, error in ended:
        assert code == 2, ended
        assert error.count("\n") == 0
        assert "expected the same config on all 2 processes of this run, got different values: " in error
        assert named.format(host=socket.gethostname()) in error
    assert not out.exists()


@pytest.mark.slow
def test_two_processes_that_name_one_config_by_two_paths_train_under_one_lock(tmp_path):
    out = tmp_path / "run"
    common = ["--out", str(out), *FEW]
    here = ["train", str(ROOT / "configs" / CONFIG), *common, "--set=data.workers=2"]
    assert [code for code, *_ in ends(start_run([["train", CONFIG, *common], here]))] == [0, 0]
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert [one.name for one in (out / "checkpoints").iterdir()] == ["2"]
    assert not (out / FILE).exists()
