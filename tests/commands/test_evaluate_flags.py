"""Flags of ``evaluate`` that reach the loaded pipeline."""

import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands import evaluate
from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import Reduced


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], Reduced()),
        (["--weights", "int8"], Reduced(weights="int8")),
        (["--weights", "int8", "--cache", "bfloat16"], Reduced("int8", "bfloat16")),
    ],
)
def test_the_precision_that_flags_give_is_that_of_the_loaded_transformer(flags, expected, monkeypatch, tmp_path):
    given = []

    def load(*folders, batch, layout, reduced):
        given.append(reduced)
        raise UserError("not loaded")

    monkeypatch.setattr(evaluate, "load_pipeline", load)
    assert main(["evaluate", "smoke/evaluation.gin", "--model", str(tmp_path), *flags]) == 2
    assert given == [expected]


def test_another_precision_is_one_line(tmp_path, capsys):
    command = ["evaluate", "smoke/evaluation.gin", "--model", str(tmp_path), "--cache", "int4"]
    assert main(command) == 2
    assert "argument --cache: invalid choice: 'int4'" in capsys.readouterr().err
