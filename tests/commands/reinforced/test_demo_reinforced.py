import json

import numpy as np
import pytest

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.pipelines.compiled_network import one_device
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.train.output.writers import read_lines

pytestmark = pytest.mark.slow


def test_a_demo_is_trained_by_rewards_and_measured_before_and_after(smoke_demo, tmp_path):
    out = tmp_path / "reinforced"
    sets = {"demo": smoke_demo, "training.task.rewards.clip.folder": smoke_demo / "clip"}
    flags = [word for path, folder in sets.items() for word in ("--set", f"{path}='{folder}'")]
    flags += ["--set", "evaluation.evaluations.scenes.splits=('seen', 'prompted', 'unnamed')"]
    assert main(["demo-reinforced", "smoke/reinforced.gin", *flags, "--out", str(out)]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert {"seen", "prompted", "unnamed"} == found["composition"]["level_1"].keys()
    assert found["comparison"]["contenders"].keys() == {"before", "after"}
    page = (out / "report.html").read_text()
    assert page.count("<b>Before</b>no. 1") == page.count("<b>After</b>no. 1") > 0
    assert "CLIP’s choice</b>no." not in page
    names = {name for line in read_lines(out / "transformer" / "metrics.jsonl") for name in line}
    assert {f"train/reward/{name}" for name in ("reader/parts", "reader/whole", "clip", "diversity")} <= names
    before, after = (load_generator(folder / "transformer") for folder in (smoke_demo, out))
    assert not np.array_equal(*(one.codes.embedding.table[...] for one in (before, after)))
    assert dalle_jax.load(out).recommended.guidance == 3.0


def test_a_python_function_is_a_reward_and_a_stopped_run_resumes(smoke_demo, tmp_path):
    def redness(images, prompts):
        return images[..., 0].mean(axis=(1, 2)) - images[..., 2].mean(axis=(1, 2))

    def run(steps):
        return dalle_jax.reinforce(
            smoke_demo, tmp_path / "run", reward={"red": redness, "reader": ReadScenes().open()},
            prompts=["a big red circle", "a small blue ring"], steps=steps, prompts_per_step=2, group=3,
            layout=one_device(),
        )  # fmt: skip

    assert run(2).metrics["train/live_groups"] == 1.0
    found = run(4)
    assert (found.step, found.skipped) == (4, 0)
    assert {"train/reward/red", "train/reward/reader/parts"} <= found.metrics.keys()


def test_a_demo_that_is_not_finished_is_one_line(tmp_path, capsys):
    flags = ["--set", f"demo='{tmp_path}'", "--out", str(tmp_path / "out")]
    assert main(["demo-reinforced", "smoke/reinforced.gin", *flags]) == 2
    assert "demo: expected the folder of a finished demo" in capsys.readouterr().err
