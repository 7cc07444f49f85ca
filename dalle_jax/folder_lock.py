"""Lock file that lets only one command at a time write to a folder.

``train``, ``encode``, ``demo`` and ``import`` hold the file ``.lock`` in the folder while they run. In a run of several
processes the first process holds it for all. The lock contains the command, host, process id and start time. A thread
renews it every ``RENEW_SECONDS`` by increasing a counter in it. A stale lock is replaced:

| lock held by | stale if |
|---|---|
| a process of this machine (same boot, same process namespace) | the process has ended, or its id was reused |
| a process of another machine, or the lock is unreadable | its content does not change for ``STALE_SECONDS`` |

No clock of another machine is used: the waiting command compares the content of the lock at two times.

Guarantees when a lock is created:

- On a local disk and on NFS only one command creates it, since link(2) is atomic.
- At a URL only one command creates it if the store supports conditional puts (Amazon S3, Google Cloud Storage).
- Other stores keep the last write. Each writer reads the lock back after ``SETTLE_SECONDS`` to see who won. If a put
  takes longer than that, two commands may both believe that they hold the lock.

Guarantees when a stale lock is removed:

- On a disk with kernel locks only one command removes it.
- At a URL, or on a disk without kernel locks, a second command may remove the new lock of the first.
- A command that has lost its lock notices at its next renewal and ends with exit code 2. Two commands therefore overlap
  by at most ``RENEW_SECONDS``. The same holds for a command that was suspended or offline for ``STALE_SECONDS``.

If the first process of a run is killed, the others end at once or after ``DALLE_JAX_LOST`` seconds. A new command on
the first process's machine does not wait for them.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_object

FILE = ".lock"
RENEW_SECONDS = 10.0
"""Seconds between two renewals of a lock."""

STALE_SECONDS = 120.0
"""Seconds without a renewal after which a lock is stale.

It exceeds the seconds in which the other processes of a run end whose first process was killed
(``parallel/failures.py``).
"""

SETTLE_SECONDS = 1.0
"""Seconds between writing a lock to a URL and reading it back."""

RELEASE_SECONDS = 10.0
"""Longest time, in seconds, that ``release`` waits for a renewal to finish."""


@contextlib.contextmanager
def locked(folder: Place, command: str) -> Iterator[None]:
    """Hold the lock of a folder while the context is open.

    Every process of a run must call this at the same point; the first one holds the lock. Raise ``UserError`` on every
    process if another command holds it, or if another user has left links where the command would write.
    """
    with contextlib.ExitStack() as held:

        def lock() -> None:
            if hosts.is_first():
                storage.refuse_foreign_links(folder)
                held.enter_context(FolderLock(folder, command))

        hosts.call_and_share_errors(lock)
        yield


@dataclass(frozen=True)
class Holder:
    """The content of a lock: the process that holds it, its start time and the number of renewals."""

    command: str
    host: str
    pid: int
    machine: str
    process_start: str | None
    since: float
    token: str
    renewals: int = 0

    @classmethod
    def this_process(cls, command: str) -> "Holder":
        """Describe this process as a new holder with a token of its own."""
        pid = os.getpid()
        host, token = socket.gethostname(), uuid.uuid4().hex
        return cls(command, host, pid, this_machine(), process_start(pid), time.time(), token)

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """Parse the content of a lock. Return None if it is unreadable, for example half written."""
        try:
            holder = cls(**parse_object(content))
            holder.describe()
        except (ValueError, TypeError, OverflowError, OSError):  # the last two for a time that is out of range
            return None
        return holder if isinstance(holder.pid, int) and isinstance(holder.renewals, int) else None

    def render(self) -> bytes:
        """Return the content of the lock as JSON."""
        return (json.dumps(asdict(self)) + "\n").encode()

    def is_here(self) -> bool:
        """Return whether the holder is a process of this machine. If not, ``runs`` cannot tell whether it runs."""
        return self.machine == this_machine()

    def runs(self) -> bool:
        """Return whether the holder, a process of this machine, still runs."""
        start = process_start(self.pid)
        return start is not None and start == self.process_start

    def describe(self) -> str:
        """Describe the command, process, host and start for a message."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"`{self.command}` (process {self.pid} on {self.host}, since {since})"


def this_machine() -> str:
    """Return an identifier of this machine's process namespace.

    It consists of the boot id and the process namespace, since containers may share a host name but not process ids.
    Without /proc it consists of the host name and the network address.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def process_start(pid: int) -> str | None:
    """Return the start time of a process, or None if it does not run.

    A process with a reused id has a different start time. Without /proc the start time is always "unknown", so a reused
    id counts as the same process.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "unknown"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the fields after the name; the name may contain spaces and brackets
    return None if fields[0] in ("Z", "X") else fields[19]


def end_process(reason: str) -> None:
    """Print the reason and exit with code 2 at once, without waiting for other threads."""
    os.write(2, f"dalle-jax: error: {reason}\n".encode())
    os._exit(2)


class FolderLock:
    """Context manager that holds the lock of one folder for this process.

    Raise ``UserError`` if another command holds the lock. The lock is released at the end of the context, after an
    error and at SIGTERM. A folder that was created for the lock and stays empty is removed. ``on_lost`` is called with
    the reason if another command replaces the lock.
    """

    def __init__(
        self,
        folder: Place,
        command: str,
        renew_seconds: float = RENEW_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        on_lost: Callable[[str], None] = end_process,
    ):
        self._folder, self._file = folder, folder / FILE
        self._own = Holder.this_process(command)
        self._renew_seconds, self._stale_seconds, self._on_lost = renew_seconds, stale_seconds, on_lost
        self._made = False
        self._renewing = threading.RLock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="folder lock", daemon=True)
        self._before: Any = None
        self._handles = False

    def __enter__(self) -> "FolderLock":
        try:
            if not storage.is_remote(self._folder):
                self._made = not self._folder.exists()
                self._folder.mkdir(parents=True, exist_ok=True)
            while not self._create():
                self._discard_stale()
        except OSError as error:
            raise UserError(f"cannot lock {self._folder}: {error.strerror or error}") from error
        self._thread.start()
        self._handle_sigterm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)
        self.release()

    def release(self) -> None:
        """Remove the lock if this process still holds it. In a forked child, do nothing."""
        if os.getpid() != self._own.pid:
            return
        self._released.set()
        free = self._renewing.acquire(timeout=RELEASE_SECONDS)
        try:
            with contextlib.suppress(FileNotFoundError):
                if self._is_own(storage.read(self._file)):
                    storage.remove_file(self._file)
            if self._made:
                with contextlib.suppress(OSError):  # the folder is not empty
                    Path(self._folder).rmdir()
        except (OSError, UserError) as error:
            warn(f"{self._file} could not be removed ({error}); the next command treats it as stale")
        finally:
            if free:
                self._renewing.release()

    def _create(self) -> bool:
        if not storage.create(self._file, self._own.render()):
            return False
        if not storage.is_remote(self._file):
            return True
        time.sleep(SETTLE_SECONDS)
        try:
            return self._is_own(storage.read(self._file))
        except FileNotFoundError:
            return False

    def _is_own(self, content: bytes) -> bool:
        holder = Holder.parse(content)
        return holder is not None and holder.token == self._own.token

    def _discard_stale(self) -> None:
        """Remove the existing lock if it is stale. Raise ``UserError`` if its holder still runs."""
        try:
            content = storage.read(self._file)
        except FileNotFoundError:
            return
        holder = Holder.parse(content)
        if holder is not None and holder.is_here():
            if holder.runs():
                raise self._refusal(holder)
        elif not self._stays_unchanged(content, holder):
            return
        if self._remove(content):
            stale = (
                "an unreadable lock" if holder is None else f"the lock of {holder.describe()}, which no longer runs,"
            )
            warn(f"{self._folder}: {stale} was replaced")

    def _stays_unchanged(self, content: bytes, holder: Holder | None) -> bool:
        """Watch a lock for ``stale_seconds``. Return whether its content stayed the same, which makes it stale."""
        lock = "an unreadable lock" if holder is None else f"the lock of {holder.describe()}"
        warn(f"{self._folder}: waiting up to {self._stale_seconds:g} s to see whether {lock} is renewed")
        until = time.monotonic() + self._stale_seconds
        while time.monotonic() < until:
            time.sleep(self._renew_seconds / 4)
            try:
                now = storage.read(self._file)
            except FileNotFoundError:
                return False
            if now != content:
                found = Holder.parse(now)
                if found is not None and holder is not None and found.token == holder.token:
                    raise self._refusal(found)
                return False
        return True

    def _refusal(self, holder: Holder) -> UserError:
        return UserError(
            f"{self._folder}: expected a folder that no other command writes to, got a folder locked by "
            f"{holder.describe()}; wait for that command to end, stop it, or choose a different folder"
        )

    def _remove(self, stale: bytes) -> bool:
        """Remove the lock if its content is still ``stale``. Return whether this call removed it."""
        if not storage.is_remote(self._file):
            return remove_same(Path(self._file), stale)
        try:
            if storage.read(self._file) != stale:
                return False
        except FileNotFoundError:
            return False
        storage.remove_file(self._file)
        return True

    def _renew(self) -> None:
        """Renew the lock until it is released. Runs in its own thread."""
        own, warned = self._own, False
        while not self._released.wait(self._renew_seconds):
            with self._renewing:
                if self._released.is_set():
                    return
                own = replace(own, renewals=own.renewals + 1)
                try:
                    other = self._rewrite(own)
                except (OSError, UserError) as error:
                    if not warned:
                        warn(f"{self._file} could not be renewed ({error}); retrying every {self._renew_seconds:g} s")
                    warned = True
                    continue
            if other is not None:
                self._on_lost(
                    f"{self._folder}: this `{own.command}` ends now, because its lock was replaced by {other}"
                )
                return

    def _rewrite(self, own: Holder) -> str | None:
        """Write the lock again and return None.

        If a different command holds it now, return a description of that command.
        """
        try:
            content = storage.read(self._file)
        except FileNotFoundError:  # removed by hand
            storage.create(self._file, own.render())
            return None
        if not self._is_own(content):
            holder = Holder.parse(content)
            return "an unreadable lock" if holder is None else f"the lock of {holder.describe()}"
        storage.write(self._file, own.render())
        return None

    def _handle_sigterm(self) -> None:
        """Release the lock at SIGTERM. In a run of several processes jax handles the signal itself."""
        if threading.current_thread() is not threading.main_thread() or hosts.process_index_and_count()[1] > 1:
            return
        self._before = signal.getsignal(signal.SIGTERM)
        if self._before == signal.SIG_DFL or callable(self._before):
            signal.signal(signal.SIGTERM, self._terminated)
            self._handles = True

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self.release()
        if callable(self._before):
            self._before(number, frame)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)


def remove_same(file: Path, content: bytes) -> bool:
    """Remove a local file if its content is still ``content``. Return whether this call removed it.

    Only one of several callers removes it. Each caller holds a kernel lock on the file that it has read, and checks
    that the name still refers to that file. On a file system without kernel locks another caller can intervene between
    the check and the removal.
    """
    try:
        mode = "r+b" if os.access(file, os.W_OK) else "rb"  # NFS locks only files that are open for writing
        with file.open(mode) as stream:
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            if stream.read() != content or not os.path.samestat(os.fstat(stream.fileno()), os.stat(file)):
                return False
            file.unlink()
            return True
    except FileNotFoundError:
        return False


def warn(line: str) -> None:
    """Print one line on standard error."""
    print(f"dalle-jax: WARNING: {line}", file=sys.stderr, flush=True)
