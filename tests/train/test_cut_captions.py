"""Captions that are longer than the text length are counted and logged."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from dalle_jax.models.dalle import DalleConfig
from dalle_jax.tasks.caption_tokens import Captions
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.text.sentencepiece import train_sentencepiece
from dalle_jax.train.task import ReadsCaptions
from tests.train.runs import run
from tests.train.toy import Toy, layout


@dataclass(frozen=True)
class Cutting(Toy):
    """The toy task with captions of which a given share is truncated."""

    cut: int = 0

    def cut_captions(self) -> tuple[int, int, str]:
        return self.cut, 100, "task.model.text_length, 3 tokens"


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (0, []),
        (7, ["7 of 100 captions read (7%) were cut to task.model.text_length, 3 tokens"]),
        (60, ["WARNING: most captions lose their end: 60 of 100 captions read (60%) were cut to"] * 2),
    ],
    ids=["none", "few", "most"],
)
def test_cut_captions_are_logged_at_the_end_and_early_if_they_are_most(tmp_path, capsys, cut, said):
    run(tmp_path, task=Cutting(cut=cut), steps=4, log_every=1)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "captions" in line]
    assert len(lines) == len(said)
    assert all(one in line for one, line in zip(said, lines, strict=True))


def test_a_task_counts_the_captions_that_it_cuts(tmp_path: Path):
    file = tmp_path / "text.model"
    file.write_bytes(train_sentencepiece(["a red circle", "a blue square"] * 5, 30, "bpe", 0))
    model = DalleConfig(
        text_vocab=30, text_length=2, codebook_size=16, grid=(4, 4), width=16, depth=1, heads=2, head_size=8
    )
    config = GenerateCodes(model=model, captions=Captions(file=str(file)), blank_captions=0.0)
    task = config.open(layout())
    examples = {"codes": [[0] * 16] * 3, "caption": ["a", "a red circle", "a blue square"]}
    task.prepare(examples, None)
    assert isinstance(task, ReadsCaptions)
    assert task.cut_captions() == (2, 3, "task.model.text_length, 2 tokens")
