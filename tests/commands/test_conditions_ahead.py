"""LlamaGen, trained from precomputed codes and caption features, up to a sampled image."""

import json

import numpy as np
import pytest

from dalle_jax.__main__ import main
from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.precomputed import Codes
from dalle_jax.pipelines.load.models import read_model_file

CONFIG = """
include 'runs/llamagen.gin'
data.source.folder = '{codes}'
data.source.conditions = '{conditions}'
data.evaluation.folder = '{codes}'
data.evaluation.conditions = '{conditions}'
data.batch_size = 8
task.model.condition = @ByCaption
task.model.condition.length = 4
task.model.condition.width = 6
task.model.width = 16
task.model.depth = 2
task.model.heads = 2
task.model.multiple_of = 8
task.model.grid = (4, 4)
task.model.codebook_size = {codebook}
trainer.steps = 2
mesh.data = 1
"""


@pytest.fixture(scope="module")
def written(smoke_demo, tmp_path_factory):
    """Write codes, and features of at most four tokens, one for each word of the caption."""
    out = tmp_path_factory.mktemp("ahead")
    sets = ["--set", f"image_tokenizer='{smoke_demo / 'tokenizer'}'"]
    assert main(["encode", "smoke/encode.gin", *sets, "--out", str(out / "codes")]) == 0
    (out / "conditions").mkdir()
    source, rng = Codes(folder=str(out / "codes")).open(), np.random.default_rng(0)
    for index in range(len(source)):
        example = source[index]
        features = rng.normal(size=(1, min(4, len(example["captions"][0].split())), 6)).astype(np.float16)
        path = out / "conditions" / f"{example['key']}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, features)
    encoding = source.manifest.encoding
    text = CONFIG.format(codes=out / "codes", conditions=out / "conditions", codebook=encoding.codebook_size)
    (out / "run.gin").write_text(text)
    return out


def test_training_records_the_image_tokenizer_and_the_model_samples(smoke_demo, written, tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(written / "run.gin"), "--out", str(run)]) == 0
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses and all(np.isfinite(line.get("loss", 0.0)) for line in losses)
    assert read_model_file(run).needs == {"image_tokenizer": str(smoke_demo / "tokenizer")}
    features = next((written / "conditions").rglob("*.npy"))
    draw = ["--features", str(features), "--candidates", "2", "--keep", "1", "--out", str(tmp_path / "drawn")]
    assert main(["sample", "--model", str(run), *draw]) == 0
    assert (tmp_path / "drawn" / "grid.png").is_file()


def test_each_record_has_its_own_condition_and_conditions_change_the_fingerprint(written, tmp_path):
    codes, conditions = str(written / "codes"), str(written / "conditions")
    source, bare = Codes(codes, conditions=conditions).open(), Codes(codes).open()
    for index in (0, 7):
        stored = np.load(written / "conditions" / f"{source[index]['key']}.npy")
        np.testing.assert_array_equal(source[index]["condition"], stored[0])
        np.testing.assert_array_equal(source[index]["codes"], bare[index]["codes"])
    assert source.fingerprint() != bare.fingerprint() and "condition" not in bare[0]
    assert Codes(codes, conditions=conditions).open().fingerprint() == source.fingerprint()


def test_missing_conditions_are_an_error_that_names_them(written, tmp_path, capsys):
    with pytest.raises(UserError, match=r"expected a file KEY\.npy for each of the 64 records .* found 0"):
        Codes(str(written / "codes"), conditions=str(tmp_path)).open()
    for number in range(64):
        np.save(tmp_path / f"{number}x.npy", np.zeros((1, 6), np.float32))
    with pytest.raises(UserError, match=r"the condition of record .* found no such file"):
        Codes(str(written / "codes"), conditions=str(tmp_path)).open()[0]
    sets = ["--set", "data.source.conditions=None", "--set", "data.evaluation.conditions=None"]
    assert main(["train", str(written / "run.gin"), *sets, "--out", str(tmp_path / "run")]) == 2
    assert "expected a condition for the codes of every image" in capsys.readouterr().err
