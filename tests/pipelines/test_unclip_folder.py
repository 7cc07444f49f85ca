"""An unCLIP pipeline from its folder, by the loader, the command and Python."""

import json

import numpy as np
import pytest
from small_unclip import write_unclip

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.unclip import Unclip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("unclip")
    write_unclip(made)
    return made


def flags(folder, out, *more: str) -> list[str]:
    return ["sample", "--model", str(folder), "--prompt", "a red circle", "--candidates", "2", "--out", str(out), *more]


def test_the_command_and_python_sample_the_same_ranked_images(folder, tmp_path):
    pipeline = dalle_jax.load(folder)
    assert isinstance(pipeline, Unclip) and pipeline.steps == 2 and pipeline.sees == "embedding"
    generation = pipeline("a red circle", candidates=2, seed=3)
    assert main(flags(folder, tmp_path, "--seed", "3")) == 0
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["score"] for line in lines], generation.scores, atol=1e-5)
    assert generation.scores[0] >= generation.scores[1]
    assert [line["candidate"] for line in lines] == list(generation.chosen)


def test_the_steps_and_the_inputs_of_the_decoder_are_choices(folder, tmp_path):
    chosen = dalle_jax.load(folder, sees="caption", steps=1)
    assert (chosen.sees, chosen.steps) == ("caption", 1)
    assert main(flags(folder, tmp_path, "--sees", "caption", "--steps", "1")) == 0
    with pytest.raises(UserError, match="sees: expected embedding, caption, both, got text"):
        dalle_jax.load(folder, sees="text")


def test_another_clip_ranks_but_does_not_embed(folder, tmp_path):
    write_unclip(tmp_path)
    own, other = dalle_jax.load(folder), dalle_jax.load(folder, clip=tmp_path / "clip")
    assert own.ranker is own.embedder and other.ranker is not other.embedder
    drawn = [one("a red circle", candidates=2).candidates for one in (own, other)]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--temperature", "0.5"), "temperature: expected its default, since a diffusion model has no temperature"),
        (("--top-k", "3"), "top_k: expected its default"),
        (("--given-image", "x.png"), "given_image: expected none for a diffusion model"),
        (("--steps", "0"), "steps: expected at least 1, got 0"),
    ],
)
def test_options_of_a_transformer_are_one_line_errors(folder, tmp_path, capsys, more, message):
    assert main(flags(folder, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_prior_of_another_clip_is_an_error(tmp_path):
    write_unclip(tmp_path)
    model = tmp_path / "prior" / "model.gin"
    model.write_text(model.read_text().replace(f"{tmp_path}/clip", "/else/clip"))
    with pytest.raises(UserError, match=r"expected a prior trained on the decoder's CLIP in .*, got one of /else/clip"):
        dalle_jax.load(tmp_path)
