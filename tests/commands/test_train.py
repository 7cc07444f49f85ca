import json

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.pipelines.load.pipeline import recommended_sampling


def test_a_trained_transformer_is_loaded_with_its_ema_weights(smoke_demo):
    """The demo trained smoke/dalle.gin; test_encode.py trains smoke/dalle_bart.gin and samples from it."""
    leaves = jax.tree.leaves(nnx.state(load_generator(smoke_demo / "transformer"), nnx.Param))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)


def test_a_trained_transformer_is_aligned_with_its_conditions_and_loaded_for_sampling(smoke_demo, tmp_path, capsys):
    files = {"task.reference": "transformer", "trainer.initial": "transformer"}
    files |= {"task.generate.captions.file": "text.model", "task.generate.image_tokenizer": "tokenizer"}
    sets = [*(f"{name}='{smoke_demo / file}'" for name, file in files.items()), "trainer.images_every=None"]
    command = ["train", "smoke/align_conditions.gin", *(word for one in sets for word in ("--set", one))]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "train/prefers_match" in lines and "evaluation/image_nll" in lines
    before, after = (load_generator(folder) for folder in (smoke_demo / "transformer", tmp_path / "run"))
    assert not np.array_equal(*(one.codes.embedding.table[...] for one in (before, after)))
    assert recommended_sampling(tmp_path / "run").guidance == 1.0
    assert main([*command, "--set", "trainer.initial=None", "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert "trainer.initial: expected the folder of a trained model to fine-tune, such as task.reference" in error


def test_a_vocabulary_size_that_differs_from_the_tokenizers_is_an_error(smoke_demo, tmp_path, capsys):
    flags = [
        *("--set", f"task.captions.file='{smoke_demo / 'text.model'}'"),
        *("--set", f"task.image_tokenizer='{smoke_demo / 'tokenizer'}'"),
        *("--set", "task.model.text_vocab=7"),
    ]
    assert main(["train", "smoke/dalle.gin", "--out", str(tmp_path / "x"), *flags]) == 2
    assert "text_vocab: expected 160" in capsys.readouterr().err


def test_a_grid_that_differs_from_the_tokenizers_is_an_error(smoke_demo, tmp_path, capsys):
    flags = [
        *("--set", f"task.captions.file='{smoke_demo / 'text.model'}'"),
        *("--set", f"task.image_tokenizer='{smoke_demo / 'tokenizer'}'"),
        *("--set", "task.model.grid=(8, 8)"),
    ]
    assert main(["train", "smoke/dalle.gin", "--out", str(tmp_path / "x"), *flags]) == 2
    assert "grid (4, 4)" in capsys.readouterr().err


def test_a_missing_text_tokenizer_is_an_error_with_a_fix(tmp_path, capsys):
    missing = tmp_path / "none.model"
    assert main(["train", "smoke/dalle.gin", "--set", f"task.captions.file='{missing}'", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(missing) in error
    assert "text-tokenizer" in error


@pytest.mark.slow
def test_evaluating_on_a_mesh_gives_the_figures_of_one_device(smoke_demo, tmp_path):
    """Codes are the same; reconstructions and scores differ by rounding."""
    settings = ("evaluations.scenes.levels=(1,)", "evaluations.scenes.drawing.batch=8")
    sets = [flag for one in settings for flag in ("--set", one)]
    mesh = [flag for axis in ("data", "fsdp", "tensor") for flag in ("--set", f"mesh.{axis}=2")]
    for name, more in (("one", []), ("mesh", mesh)):
        command = ["evaluate", "smoke/evaluation.gin", "--model", str(smoke_demo), "--out", str(tmp_path / name)]
        assert main([*command, *sets, *more]) == 0
    one, ours = (json.loads((tmp_path / name).read_text())["scenes"] for name in ("one", "mesh"))
    assert ours["composition"] == one["composition"]
    for (path, theirs), (_, found) in zip(*(jax.tree_util.tree_leaves_with_path(x) for x in (one, ours)), strict=True):
        if isinstance(theirs, float) and "seconds" not in str(path):
            assert found == pytest.approx(theirs, rel=1e-3, abs=1e-3), path


def test_an_evaluate_run_may_have_several_evaluations(smoke_demo, tmp_path):
    config, out = tmp_path / "two.gin", tmp_path / "figures.json"
    config.write_text(
        "include 'smoke/evaluation.gin'\nevaluations.scenes.levels = (1,)\nevaluations.cold = @EvaluateScenes\n"
        "evaluations.cold.levels = (2,)\nevaluations.cold.captions = 2\nevaluations.cold.reconstructions = 2\n"
        "evaluations.cold.drawing.candidates = 2\nevaluations.cold.drawing.guidance = 1.0\n"
        "evaluations.cold.drawing.batch = 4\nevaluations.cold.guidances = (1.0,)\nevaluations.cold.shown = 1\n"
        "evaluations.cold.many_captions = 1\nevaluations.cold.many_candidates = 3\n"
        "evaluations.cold.guidance_captions = 1\n"
    )
    assert main(["evaluate", str(config), "--model", str(smoke_demo), "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert list(figures) == ["scenes", "cold"]
    assert "level_1" in json.dumps(figures["scenes"]["composition"])
    assert set(figures["scenes"]["guidance"]) == {"1", "3"} and set(figures["cold"]["guidance"]) == {"1"}
    assert (
        main(["evaluate", str(config), "--model", str(smoke_demo), "--out", str(out), "--set", "evaluations={}"]) == 2
    )
