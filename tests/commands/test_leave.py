"""Processes end within seconds; without ``leave`` each of them would wait for its threads, some for ever."""

import subprocess
import sys

import pytest

LIMIT = 100
"""Seconds after which a process counts as hung."""

LEAVE = "import dalle_jax.commands.leave as patient; patient.GRACE_SECONDS = 0.5; leave = patient.leave\n"
"""The function, with a tenth of its patience."""

WAITS = "import threading; threading.Thread(target=threading.Event().wait, name='endless').start()\n"


def end(code: str, *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of a process that runs ``code``."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("code", [1, 2, 75, 130])
def test_an_error_ends_the_process_with_its_code_while_a_thread_still_waits(code):
    ended = end(WAITS + LEAVE + f"print('last words'); leave({code})")
    assert ended[:2] == (code, "last words\n")
    assert ended[2].endswith("for the threads endless\n")


def test_an_exit_handler_that_waits_does_not_delay_the_exit():
    waits = "import atexit, threading; atexit.register(threading.Event().wait)\n"
    code, _, said = end(waits + LEAVE + "leave(2)")
    assert code == 2 and said.endswith("for Python's exit handlers\n")


def test_after_success_the_process_waits_for_a_working_thread():
    works = "import threading, time; threading.Thread(target=lambda: (time.sleep(1), print('done'))).start()\n"
    assert end(works + "from dalle_jax.commands.leave import leave; leave(0)") == (0, "done\n", "")


def test_bad_input_ends_the_process_with_code_2_while_a_thread_still_waits():
    run = "from dalle_jax.__main__ import run_process; run_process()"
    code, _, said = end(WAITS + LEAVE + run, "train", "no_such_file.gin")
    assert code == 2 and said.startswith("dalle-jax: error: ") and "endless" in said


def test_an_unexpected_error_ends_the_process_with_its_traceback_and_code_1():
    broken = "import dalle_jax.__main__ as edge\ndef broken(argv): return 1 // 0\nedge._run = broken\n"
    code, _, said = end(WAITS + LEAVE + broken + "edge.run_process()")
    assert code == 1 and "ZeroDivisionError" in said and "in broken" in said
