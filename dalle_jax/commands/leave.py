"""Exit of the process: within seconds after an error, even if threads or exit handlers still wait."""

import os
import sys
import threading
from typing import NoReturn

GRACE_SECONDS = 5.0
"""Seconds after an error in which threads and exit handlers may end by themselves."""


def leave(code: int) -> NoReturn:
    """Exit with ``code``. If it is not 0, exit within ``GRACE_SECONDS``.

    Python joins every non-daemon thread before it exits, and ``jax.distributed`` waits for the other processes of the
    run. After an error this may take minutes: a thread may wait for a file that nobody writes, and the other processes
    for this one.
    """
    if code != 0:
        end = threading.Timer(GRACE_SECONDS, _end, [code])
        end.daemon = True
        end.start()
    sys.exit(code)


def _end(code: int) -> None:
    """Print the threads that still run, and exit at once. Bypass Python's streams, whose locks may be held."""
    waiting = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    names = ", ".join(waiting[:5]) + (f" and {len(waiting) - 5} more" if len(waiting) > 5 else "")
    unfinished = f"the threads {names}" if waiting else "Python's exit handlers"
    os.write(2, f"dalle-jax: exiting after waiting {GRACE_SECONDS:g} s for {unfinished}\n".encode())
    os._exit(code)
