from pathlib import Path

import pytest

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.models.vqvae import VqvaeConfig
from dalle_jax.pipelines.load.models import ModelFile, PipelineFile, absolute_needs, stage_folders
from dalle_jax.pipelines.load.pipeline import recommended_sampling
from dalle_jax.sampling.options import RecommendedSampling

TOKENIZER = VqvaeConfig(downsample=4, width=8, blocks=1, codebook_size=16, code_width=4)


def error(text: str, root: type) -> str:
    with pytest.raises(UserError) as caught:
        loads(text, root, "x.gin")
    return str(caught.value)


def test_folders_are_relative_to_the_pipeline_file_and_are_replaced_by_arguments(tmp_path):
    file = PipelineFile({"image_tokenizer": "tokenizer", "transformer": "/else/where", "clip": "clip"})
    (tmp_path / "pipeline.gin").write_text(render(file))
    needs = {"image_tokenizer": f"{tmp_path}/tokenizer", "transformer": "/else/where", "clip": f"{tmp_path}/clip"}
    assert stage_folders(tmp_path) == PipelineFile(needs)
    assert stage_folders(tmp_path, clip=Path("other")) == PipelineFile(needs | {"clip": "other"})


def test_the_sampling_of_a_pipeline_file_replaces_that_of_its_transformer(tmp_path):
    (tmp_path / "transformer").mkdir()
    own = ModelFile(TOKENIZER, sampling=RecommendedSampling(guidance=1.0))
    (tmp_path / "transformer" / "model.gin").write_text(render(own))
    needs = {"image_tokenizer": "tokenizer", "transformer": "transformer"}
    (tmp_path / "pipeline.gin").write_text(render(PipelineFile(needs)))
    assert recommended_sampling(tmp_path) == RecommendedSampling(guidance=1.0)
    (tmp_path / "pipeline.gin").write_text(render(PipelineFile(needs, sampling=RecommendedSampling(guidance=2.0))))
    assert recommended_sampling(tmp_path) == RecommendedSampling(guidance=2.0)


def test_the_clip_of_an_unclip_is_not_replaced_since_its_decoder_reads_the_embeddings(tmp_path):
    file = PipelineFile({"image_tokenizer": "/a/tokenizer", "decoder": "decoder", "clip": "clip", "prior": "prior"}, 12)
    (tmp_path / "pipeline.gin").write_text(render(file))
    own = {name: f"{tmp_path}/{name}" for name in ("decoder", "clip", "prior")}
    assert stage_folders(tmp_path, clip=Path("other")) == PipelineFile({"image_tokenizer": "/a/tokenizer"} | own, 12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("needs.transformer = 't'\n", "needs.image_tokenizer: expected a folder, got none"),
        ("", "needs is missing; expected needs.NAME = a str"),
        (
            "needs.transformer = 't'\nneeds.image_tokenizer = 'i'\nneeds.clipp = 'c'\n",
            "needs.clipp: expected one of image_tokenizer, transformer, clip, decoder, prior, upsampler, upsampler_2, "
            "consistency_decoder, forecast, got clipp; did you mean needs.clip?",
        ),
        ("needs.transformer = 't'\nneeds.decoder = 'd'\n", "needs: expected a transformer or a decoder, got both"),
        (
            "needs.decoder = 'd'\nneeds.clip = 'c'\nsampling = @RecommendedSampling\nsampling.top_k = 3\n",
            "sampling.top_k: expected none with needs.decoder, got 3",
        ),
        ("needs.decoder = 'd'\nneeds.image_tokenizer = 'i'\n", "needs.clip: expected a folder, got none"),
        (
            "needs.decoder = 'd'\nneeds.clip = 'c'\nneeds.forecast = 'f'\n",
            "needs.forecast: expected none with needs.decoder",
        ),
        (
            "needs.transformer = 't'\nneeds.image_tokenizer = 'i'\nsteps = 8\n",
            "steps: expected none without needs.decoder, since a transformer has no steps",
        ),
    ],
)
def test_a_pipeline_without_its_models_or_with_an_unknown_one_is_an_error(text: str, said: str):
    assert said in error(text, PipelineFile)


def test_old_pipeline_and_model_files_are_errors_with_the_present_names():
    assert error("image_tokenizer = 'i'\ntransformer = 't'\nclip = None\n", PipelineFile).splitlines() == [
        "x.gin:1: image_tokenizer is now needs.image_tokenizer",
        "x.gin:2: transformer is now needs.transformer",
        "x.gin:3: clip is now needs.clip; remove the line if the value is None",
    ]
    old = render(ModelFile(TOKENIZER)).replace("needs = {}", "image_tokenizer = None")
    assert error(old, ModelFile).endswith(
        "image_tokenizer is now needs.image_tokenizer; remove the line if the value is None"
    )


def test_a_model_file_names_the_absolute_folders_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = ModelFile(TOKENIZER, absolute_needs(image_tokenizer="runs/tokenizer", clip=None))
    assert file.needs == {"image_tokenizer": f"{tmp_path}/runs/tokenizer"}
    assert loads(render(file), ModelFile) == file
