"""Messages that XLA prints when it compiles."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

REPLICATES = "Involuntary full rematerialization"
"""Part of the warning that an array is replicated on every device to reshard it."""


@contextlib.contextmanager
def printed_by_xla() -> Iterator[Callable[[], str]]:
    """Return a context that keeps what is written to file descriptor 2, and a function that returns it afterwards."""
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: text
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text = file.read().decode(errors="replace")
