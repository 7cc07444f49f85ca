"""Links that another user left in a folder that others may write to: no command writes through them."""

import os
from pathlib import Path

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.folder_lock import locked


@pytest.fixture
def link(monkeypatch):
    """Return a function that creates a link which belongs to another user."""

    def create(path: Path, target: Path) -> None:
        path.symlink_to(target)
        if os.geteuid() == 0:
            os.lchown(path, 4242, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 4242)

    return create


def taken(folder: Path) -> None:
    with locked(folder, "train"):
        pass


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "checkpoints", "checkpoints/5", "in/deep/config.gin"])
def test_a_link_of_another_user_is_refused_before_anything_is_written(tmp_path, link, name):
    run, away = tmp_path / "run", tmp_path / "away"
    (run / name).parent.mkdir(parents=True)
    for folder in (run, *(one for one in run.rglob("*") if one.is_dir())):
        folder.chmod(0o777)
    away.mkdir()
    link(run / name, away)
    with pytest.raises(UserError, match=f"{name}: expected no link of another user .*, got one of user .* to {away};"):
        taken(run)
    assert list(away.iterdir()) == [] and not (run / ".lock").is_file()


def test_a_run_folder_that_is_a_link_of_another_user_is_refused(tmp_path, link):
    (tmp_path / "away").mkdir()
    tmp_path.chmod(0o777)
    link(tmp_path / "run", tmp_path / "away")
    with pytest.raises(UserError, match="run: expected no link of another user"):
        taken(tmp_path / "run")


def test_own_links_are_followed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(0o777)
    (tmp_path / "disk").mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "disk")
    taken(run)


def test_links_in_a_folder_that_only_the_user_may_write_to_are_followed(tmp_path):
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    (run / "checkpoints").symlink_to(tmp_path)
    taken(run)
    taken(tmp_path / "new" / "run")
