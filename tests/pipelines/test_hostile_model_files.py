"""Model files that others wrote: read in bounded size, or refused by one line."""

import os

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.load.models import MODEL_FILE, read_model_file, stage_folders
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
