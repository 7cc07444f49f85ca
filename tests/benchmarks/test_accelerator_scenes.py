"""The script for the six levels at 64 px on an accelerator, at tiny sizes on a CPU."""

import json

import accelerator_scenes
import pytest
from accelerator_scenes import Timed, run

SIZES = (
    "model.width=16", "model.depth=4", "model.heads=2", "model.head_size=8", "model.text_vocab=192",
    "model.text_length=32", "model.codebook_size=32", "model.grid=(8, 8)", "model.kernel=3", "model.dtype='float32'",
)  # fmt: skip
DATA = ("data.evaluation.count=8",)
TINY = {
    "tokenizer": (
        *DATA, "data.batch_size=8", "task.model.downsample=8", "task.model.width=16", "task.model.blocks=1",
        "task.model.refine=(8,)", "task.model.codebook_size=32", "task.model.code_width=32",
        "task.model.dtype='float32'",
    ),
    "clip": (
        *DATA, "data.batch_size=8", "task.model.vision.width=16", "task.model.vision.layers=1",
        "task.model.vision.heads=2", "task.model.text.width=16", "task.model.text.layers=1", "task.model.text.heads=2",
        "task.model.embed_width=8", "task.model.dtype='float32'",
    ),
    "transformer": (*DATA, "data.batch_size=8", *(f"task.{one}" for one in SIZES)),
    "reinforce": (
        *DATA, "data.batch_size=8", "task.group=2", "task.trained_groups=4",
        *(f"task.generate.{one}" for one in SIZES),
    ),
    "evaluation": (
        "evaluations.scenes.captions=2", "evaluations.scenes.drawing.candidates=2", "evaluations.scenes.shown=1",
        "evaluations.scenes.drawing.batch=8", "evaluations.scenes.many_captions=0",
        "evaluations.scenes.guidance_captions=0", "evaluations.scenes.reconstructions=2",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_every_stage_is_trained_and_measured_before_and_after_rewards(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator_scenes, "FIRST_STEPS", 10)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    run(Timed(tmp_path / "run", 1.0, TINY), tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "report.html", "before.json", "after.html", "after.json", "steps.json"
    }  # fmt: skip
    steps = json.loads((tmp_path / "kept" / "steps.json").read_text())
    trained = {name: (one["first_steps"], one["steps"]) for name, one in steps.items()}
    assert trained == dict.fromkeys(("tokenizer", "clip", "transformer", "reinforce"), (10, 20))
    assert all(one["steps_per_second"] > 0 for one in steps.values())
    before = json.loads((tmp_path / "kept" / "before.json").read_text())
    assert set(before["composition"]) == {f"level_{level}" for level in range(1, 7)}
