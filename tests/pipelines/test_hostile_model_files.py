"""Model files that others wrote: read in bounded size, or refused by one line."""

import os

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.models.dalle import DalleConfig
from dalle_jax.models.unet import UNetConfig
from dalle_jax.pipelines.load.bounded_build import build_shapes
from dalle_jax.pipelines.load.models import MODEL_FILE, load_network, read_model_file, stage_folders
from dalle_jax.pipelines.load.text import load_text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"# caf\xe9\n", "model.gin: expected text in UTF-8, got another encoding at byte 5"),
        (b"#" * 100_001, "model.gin: expected a file of at most 100,000 bytes"),
        (b"model = @NoModel\n", "NoModel"),
        (b"include '/etc/passwd'\n", "cannot include"),
        (b"model = '''" + b"a\n" * 1000, "not closed"),
    ],
    ids=["not UTF-8", "too large", "other", "include", "open"],
)
def test_model_files_that_cannot_be_used_are_refused_by_their_name(tmp_path, content, says):
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_model_file(tmp_path)


DALLE = """model = @DalleConfig
model.text_vocab = 32
model.text_length = 6
model.codebook_size = 16
model.grid = (4, 4)
model.width = 16
model.depth = 2
model.heads = 2
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("model.depth = 1000000", r"model\.gin: model\.depth: expected at most 1,000, got 1,000,000"),
        ("model.text_vocab = 1000000000000", r"model\.text_vocab: expected at most 16,777,216, got 1,000,000,000,000"),
        ("model.grid = (4, 99999999)", r"model\.grid: expected at most 16,777,216, got 99,999,999"),
        (
            "model.attention = (" + "'full', " * 1001 + ")",
            r"the length of model\.attention: expected at most 1,000, got 1,001",
        ),
    ],
)
def test_sizes_beyond_those_of_any_network_are_refused_by_their_field(tmp_path, line, says):
    (tmp_path / MODEL_FILE).write_text(DALLE + line + "\n")
    with pytest.raises(UserError, match=says):
        read_model_file(tmp_path)


def test_a_network_with_more_layers_than_its_checkpoint_has_arrays_is_not_built():
    config = UNetConfig(width=32, multipliers=(1,) * 8, blocks=1000)
    with pytest.raises(
        UserError, match="here: expected a network whose arrays are in its checkpoint, which holds 30, go"
    ):
        build_shapes(config, 30, "here")


def test_a_folder_without_a_checkpoint_is_refused_before_its_network_is_built(tmp_path):
    (tmp_path / MODEL_FILE).write_text(DALLE)
    with pytest.raises(UserError, match="expected a checkpoint, got none"):
        load_network(tmp_path, (DalleConfig,))


def test_other_files_of_a_model_are_bounded_too(tmp_path):
    (tmp_path / "pipeline.gin").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"pipeline\.gin: expected text in UTF-8"):
        stage_folders(tmp_path)
    (tmp_path / "text.gin").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"text\.gin: expected text in UTF-8"):
        load_text(tmp_path, 8)
    (tmp_path / "text.gin").unlink()
    with open(tmp_path / "text.model", "wb") as stream:
        os.truncate(stream.fileno(), 2**40)
    with pytest.raises(UserError, match=r"text\.model: expected a file of at most"):
        load_text(tmp_path, 8)
