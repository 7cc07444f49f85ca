"""Preferences from end to end: candidates of a bulk job train the model that sampled them."""

import jax
import numpy as np
import pytest
from flax import nnx

from dalle_jax.__main__ import main
from dalle_jax.pipelines.load.models import load_generator
from dalle_jax.train.output.writers import read_lines

pytestmark = pytest.mark.slow


def test_a_bulk_job_trains_the_model_that_sampled_it_and_a_stopped_run_resumes_to_the_bit(smoke_demo, tmp_path):
    prompts, job = tmp_path / "prompts.txt", tmp_path / "job"
    prompts.write_text("a big red circle\na small blue ring\na green square above a red circle\n")
    sampled = ["sample", "--model", str(smoke_demo), "--prompts", str(prompts), "--tars", "--candidates", "4"]
    assert main([*sampled, "--keep", "4", "--temperature", "1", "--guidance", "1", "--out", str(job)]) == 0
    transformer = str(smoke_demo / "transformer")
    sets = {
        "data.source.folder": str(job), "task.reference": transformer, "trainer.initial": transformer,
        "task.generate.captions.file": str(smoke_demo / "text.model"),
        "task.generate.image_tokenizer": str(smoke_demo / "tokenizer"),
    }  # fmt: skip
    flags = [word for path, folder in sets.items() for word in ("--set", f"{path}='{folder}'")]
    weights = []
    for name, stops in (("whole", (4,)), ("resumed", (2, 4))):
        for steps in stops:
            out = tmp_path / name
            assert (
                main(["train", "smoke/prefer.gin", *flags, "--set", f"trainer.steps={steps}", "--out", str(out)]) == 0
            )
        weights.append(jax.tree.leaves(nnx.state(load_generator(out), nnx.Param)))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    lines = list(read_lines(tmp_path / "whole" / "metrics.jsonl"))
    names = {name for line in lines for name in line}
    assert {"train/preference_accuracy", "train/preference_margin", "train/kl", "evaluation/image_nll"} <= names
    first = next(line for line in lines if "train/preference_margin" in line)
    assert abs(first["train/preference_margin"]) < 1e-3  # the model is its reference
