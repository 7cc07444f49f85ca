"""train, encode, demo and import refuse a folder that another command writes to."""

import signal
import time
from pathlib import Path

import pytest

from dalle_jax.__main__ import main
from dalle_jax.folder_lock import FILE, FolderLock
from tests.command_processes import ends, start_command, start_run

TRAIN = ["train", "smoke/tokenizer.gin", "--set=trainer.evaluate_every=None", "--set=trainer.images_every=None"]


@pytest.mark.parametrize(
    "command",
    [TRAIN, ["encode", "smoke/encode.gin", "--set=image_tokenizer='t'"], ["demo", "smoke/demo.gin"]],
    ids=lambda one: one[0],
)
def test_each_command_refuses_a_locked_folder_and_leaves_it_unchanged(command, tmp_path, capsys):
    with FolderLock(tmp_path, "serve"):
        assert main([*command, "--out", str(tmp_path)]) == 2
        assert [one.name for one in tmp_path.iterdir()] == [FILE]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{tmp_path}: expected a folder that no other command writes to, got a folder locked by `serve` (" in error


def test_import_refuses_a_locked_folder_and_leaves_it_unchanged(tmp_path, capsys):
    source, out = tmp_path / "weights.pt", tmp_path / "out"
    source.write_bytes(b"no weights")
    with FolderLock(out, "serve"):
        assert main(["import", "openai-clip", str(source), str(out)]) == 2
        assert [one.name for one in out.iterdir()] == [FILE]
    assert "got a folder locked by `serve` (" in capsys.readouterr().err


def test_a_second_train_is_refused_and_the_first_saves_and_unlocks_at_sigterm(tmp_path, capsys):
    command = [*TRAIN, "--set=trainer.steps=1000000", "--set=trainer.log_every=20", "--out", str(tmp_path)]
    first, metrics = start_command(command), tmp_path / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.read_text()):  # before its first line, SIGTERM may find no handler
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"`train` (process {first.pid} on " in error
        first.send_signal(signal.SIGTERM)
        ((code, _, error),) = ends([first])
    finally:
        first.kill()
    assert (code, error) == (0, "")
    assert checkpoints(tmp_path)
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
def test_every_process_of_a_run_ends_when_its_folder_is_locked(tmp_path):
    command = [*TRAIN, "--out", str(tmp_path)]
    with FolderLock(tmp_path, "serve"):
        ended = ends(start_run([command, command]))
    assert [code for code, *_ in ended] == [2, 2], ended
    for *_, error in ended:
        assert error.count("\n") == 0
        assert "process 0: " in error
        assert "got a folder locked by `serve` (" in error
    assert list(tmp_path.iterdir()) == []


def test_a_demo_locks_its_stages_one_by_one_and_leaves_no_lock(smoke_demo):
    assert not list(smoke_demo.rglob(f"*{FILE}*"))


def checkpoints(out: Path) -> list[str]:
    return [one.name for one in (out / "checkpoints").iterdir()]
