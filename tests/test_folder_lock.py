"""Only one command at a time writes to a folder, local or at a URL, even after kills."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dalle_jax import folder_lock, storage
from dalle_jax.config.errors import UserError
from dalle_jax.folder_lock import FILE, FolderLock, Holder, locked
from tests.train.stores import amazon, google

CHILD = Path(__file__).with_name("lock_child.py")
LOST: list[str] = []
"""Reasons for which locks of this process were lost: none, in all tests but that of losing one."""


def quick(folder: storage.Place, command: str = "encode") -> FolderLock:
    return FolderLock(folder, command, renew_seconds=0.1, stale_seconds=1.0, on_lost=LOST.append)


@pytest.fixture(autouse=True)
def none_lost() -> Iterator[None]:
    yield
    assert LOST == []


@pytest.fixture
def holding(tmp_path) -> Iterator:
    """Start children that hold the lock of ``tmp_path / "run"``; kill at the end those that are left."""
    started = []

    def start(machine: str = "here", how: str = "well") -> subprocess.Popen:
        pipe = subprocess.PIPE
        command = [sys.executable, str(CHILD), str(tmp_path / "run"), machine, how]
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_second_command_is_refused_with_the_holder_and_its_start_time(holding, tmp_path):
    child = holding()
    with pytest.raises(UserError) as refused, quick(tmp_path / "run"):
        pass
    host = os.uname().nodename
    assert re.fullmatch(
        rf"{tmp_path}/run: expected a folder that no other command writes to, got a folder locked by `train` "
        rf"\(process {child.pid} on {host}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC\); "
        r"wait for that command to end, stop it, or choose a different folder",
        str(refused.value),
    )


@pytest.mark.parametrize("how", ["well", "error"])
def test_the_lock_is_removed_at_the_end_and_after_an_error(holding, tmp_path, how, capsys):
    child = holding(how=how)
    assert (tmp_path / "run" / FILE).exists()
    child.communicate("\n", timeout=60)
    assert child.returncode == (how == "error")
    assert not (tmp_path / "run").exists()  # it was made for the lock alone
    with quick(tmp_path / "run"):
        pass
    assert capsys.readouterr().err == ""


def test_the_lock_is_removed_at_sigterm_which_ends_the_process(holding, tmp_path):
    child = holding()
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == -signal.SIGTERM
    assert not (tmp_path / "run" / FILE).exists()


def test_a_terminated_forked_child_does_not_remove_the_lock(holding, tmp_path):
    child = holding(how="fork")
    assert child.communicate("\n", timeout=60)[0] == f"{-signal.SIGTERM} True\n"
    assert child.returncode == 0
    assert not (tmp_path / "run" / FILE).exists()


def test_the_lock_of_a_killed_process_is_replaced_with_one_line(holding, tmp_path, capsys):
    child = holding()
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":  # it is not waited for
        time.sleep(0.01)
    with quick(tmp_path / "run"):
        assert Holder.parse((tmp_path / "run" / FILE).read_bytes()).pid == os.getpid()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(
        rf"{tmp_path}/run: the lock of `train` \(process {child.pid} .*\), which no longer runs, was replaced", error
    )
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_whose_process_id_was_reused_is_replaced(tmp_path, capsys):
    before = replace(Holder.this_process("train"), process_start="1")
    (tmp_path / FILE).write_bytes(before.render())
    with quick(tmp_path):
        assert Holder.parse((tmp_path / FILE).read_bytes()).command == "encode"
    assert "was replaced" in capsys.readouterr().err


def test_the_lock_of_another_machine_is_kept_while_it_is_renewed_and_replaced_after(holding, tmp_path, capsys):
    child = holding(machine="elsewhere")
    with pytest.raises(UserError, match=rf"locked by `train` \(process {child.pid} on "), quick(tmp_path / "run"):
        pass
    child.kill()
    child.wait()
    with quick(tmp_path / "run"):
        pass
    waits, waits_again, taken = capsys.readouterr().err.splitlines()
    assert waits == waits_again
    assert f"waiting up to 1 s to see whether the lock of `train` (process {child.pid} on " in waits
    assert taken.endswith("which no longer runs, was replaced")


def test_an_unreadable_lock_that_does_not_change_is_replaced(tmp_path, capsys):
    (tmp_path / FILE).write_bytes(b'{"command": "tr')
    with quick(tmp_path):
        assert Holder.parse((tmp_path / FILE).read_bytes()) is not None
    assert "an unreadable lock was replaced" in capsys.readouterr().err


def together(folder: storage.Place, count: int) -> tuple[int, list[str]]:
    """Let threads ask for the lock of a folder at once; return how many got it, and the errors of the rest."""
    start, end = threading.Barrier(count), threading.Barrier(count)
    inside, refused = [], []

    def ask() -> None:
        start.wait()
        try:
            with quick(folder):
                inside.append(1)
                end.wait(60)
        except UserError as error:
            refused.append(str(error))
            end.wait(60)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return len(inside), refused


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_many_commands_that_find_a_stale_lock_one_gets_it(tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(storage, "_create_here", lambda file, content: storage._create_by_opening(file, content))
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / FILE).write_bytes(replace(Holder.this_process("train"), process_start="1").render())
        inside, refused = together(folder, 6)
        assert inside == 1
        assert len(refused) == 5
        assert all("`encode`" in one for one in refused)
        assert list(folder.iterdir()) == []


def test_a_disk_without_hard_links_is_locked_too(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with quick(tmp_path), pytest.raises(UserError, match="got a folder locked by"), quick(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_renewed_and_a_command_whose_lock_was_replaced_ends(tmp_path):
    lost, said = threading.Event(), []
    lock = FolderLock(tmp_path, "train", renew_seconds=0.05, on_lost=lambda reason: (said.append(reason), lost.set()))
    with lock:
        while Holder.parse((tmp_path / FILE).read_bytes()).renewals < 3:
            time.sleep(0.01)
        other = Holder.this_process("import")
        storage.write(tmp_path / FILE, other.render())
        assert lost.wait(60)
    replacement = f"the lock of {other.describe()}"
    assert said == [f"{tmp_path}: this `train` ends now, because its lock was replaced by {replacement}"]
    assert Holder.parse((tmp_path / FILE).read_bytes()) == other  # the other's, so it stays


def test_a_lock_that_was_removed_by_hand_comes_back(tmp_path):
    with quick(tmp_path):
        (tmp_path / FILE).unlink()
        while not (tmp_path / FILE).exists():
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("")
    said = rf"cannot lock {tmp_path}/file/run: Not a directory"
    with pytest.raises(UserError, match=said), locked(tmp_path / "file" / "run", "demo"):
        pass


@pytest.fixture(scope="module", params=[amazon, google], ids=["s3", "gs"])
def bucket(request) -> Iterator[str]:
    with request.param() as url:
        yield url


def test_a_folder_behind_a_url_is_locked_too(bucket, capsys):
    folder = storage.place(f"{bucket}/locked")
    with quick(folder, "train"):
        with pytest.raises(UserError, match=rf"{folder}: .*`train` \(process {os.getpid()} on "), quick(folder):
            pass
        while Holder.parse(storage.read(folder / FILE)).renewals < 2:
            time.sleep(0.01)
    assert storage.files(folder) == {}
    for machine in (folder_lock.this_machine(), "elsewhere"):
        stale = replace(Holder.this_process("train"), process_start="1", machine=machine)
        storage.write(folder / FILE, stale.render())
        with quick(folder):
            assert json.loads(storage.read(folder / FILE))["command"] == "encode"
        assert capsys.readouterr().err.splitlines()[-1].endswith("which no longer runs, was replaced")
    assert storage.files(folder) == {}


def test_of_many_commands_that_lock_a_url_at_once_one_gets_it(bucket, monkeypatch):
    monkeypatch.setattr(folder_lock, "SETTLE_SECONDS", 3.0)  # a busy machine's server is slow
    inside, refused = together(storage.place(f"{bucket}/many"), 4)
    assert (inside, len(refused)) == (1, 3)


def test_a_store_that_refuses_conditional_puts_is_written_without_them(bucket, monkeypatch):
    system = storage._file_system(storage.place(bucket))
    whole = system.pipe_file

    def refuse(path, content, **how):
        if how:
            raise OSError("A header you provided implies functionality that is not implemented")
        whole(path, content)

    monkeypatch.setattr(system, "pipe_file", refuse)
    file = storage.place(f"{bucket}/plain/{FILE}")
    assert storage.create(file, b"one")
    assert not storage.create(file, b"two")
    assert storage.read(file) == b"one"
