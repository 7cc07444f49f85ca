"""One command at a time writes to a folder: ``.lock`` says which, and how a stale lock is recognised.

``train``, ``encode``, ``demo`` and ``import`` hold the lock while they run. In a run of several processes the first
process holds it for all. The lock names the command, host, process and start, and a thread renews it.

| the lock is of | it is stale when |
|---|---|
| a process of this machine (same boot, same process namespace) | that process has ended, or its number was reused |
| a process of another machine, or it cannot be read | it was not renewed for ``STALE_SECONDS`` of watching |

Watching compares two readings of the lock, so clocks of different machines do not matter. A stale lock is taken over.

Guarantees. On a local disk and on NFS at most one command creates a lock, since link(2) is atomic. Behind a URL this
is so where the store honours a conditional put (Amazon S3, Google Cloud Storage). Other stores keep the last writer,
which each writer learns by reading back after ``SETTLE_SECONDS``; a put that takes longer can let in a second command.
On a disk with kernel locks only one command removes a stale lock. Behind a URL, and on a disk without them, a second
one may remove the lock that the first has just made. A command that loses its lock finds that out at its next renewal
and ends with exit code 2, so two commands overlap by ``BEAT_SECONDS`` at most. A command that was suspended, or cut
off from the store, for longer than ``STALE_SECONDS`` ends in the same way. When the first process of several is killed,
jax's own heartbeat ends the others some time later; the lock does not wait for them on the first process's machine.
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

FILE = ".lock"
BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Longer than jax needs (100 s) to end the other processes of a run whose first process was killed."""

SETTLE_SECONDS = 1.0
"""Time between writing a lock behind a URL and reading it back."""

RELEASE_SECONDS = 10.0
"""How long the release waits for a renewal that is under way."""


@contextlib.contextmanager
def locked(folder: Place, command: str) -> Iterator[None]:
    """Hold the lock of a folder; all processes of a run call this at the same place, and the first holds it.

    Raises UserError on all of them where another command holds the lock.
    """
    with contextlib.ExitStack() as held:
        hosts.call_and_share_errors(
            lambda: held.enter_context(FolderLock(folder, command)) if hosts.is_first() else None
        )
        yield


@dataclass(frozen=True)
class Holder:
    """The content of a lock: who holds it since when, and how often it was renewed (``beat``)."""

    command: str
    host: str
    pid: int
    machine: str
    process_start: str | None
    since: float
    token: str
    beat: int = 0

    @classmethod
    def this_process(cls, command: str) -> "Holder":
        """Return the holder that this process is from now on."""
        pid = os.getpid()
        host, token = socket.gethostname(), uuid.uuid4().hex
        return cls(command, host, pid, this_machine(), process_start(pid), time.time(), token)

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """Return the holder in a lock's content; None where it cannot be read, as while it is written."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def render(self) -> bytes:
        """Return the content of the lock."""
        return (json.dumps(asdict(self)) + "\n").encode()

    def is_here(self) -> bool:
        """Whether the holder is a process of this machine, whose end can be seen."""
        return self.machine == this_machine()

    def runs(self) -> bool:
        """Whether the process still runs, given that it is one of this machine."""
        start = process_start(self.pid)
        return start is not None and start == self.process_start

    def described(self) -> str:
        """Return the command, process, host and start in words."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"`{self.command}` (process {self.pid} on {self.host}, since {since})"


def this_machine() -> str:
    """Return a name for the space of process numbers that this process lives in.

    Containers may share a host name but not their processes, so this is the boot and the process namespace.
    Without /proc it is the host name and network address.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def process_start(pid: int) -> str | None:
    """Return the start of a process, which tells it from an earlier one of its number; None where none runs.

    Without /proc every process has the start "unknown", so a reused number counts as the same process.
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
    fields = stat.rpartition(")")[2].split()  # from the third on: the second, the name, may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]


def end_process(reason: str) -> None:
    """End this process at once, past whatever its threads do."""
    os.write(2, f"dalle-jax: error: {reason}\n".encode())
    os._exit(2)


class FolderLock:
    """The lock of one folder as a context, held by this process; UserError where another command holds it.

    It is released at the end, after an error and at SIGTERM. A folder that was made for the lock and stays empty is
    removed. ``lost`` is called with the reason when another command has taken the lock over.
    """

    def __init__(
        self,
        folder: Place,
        command: str,
        beat_seconds: float = BEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        lost: Callable[[str], None] = end_process,
    ):
        self._folder, self._file = folder, folder / FILE
        self._own = Holder.this_process(command)
        self._beat_seconds, self._stale_seconds, self._lost = beat_seconds, stale_seconds, lost
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
        """Remove the lock if it is still this process's own. A forked child removes nothing."""
        if os.getpid() != self._own.pid:
            return
        self._released.set()
        free = self._renewing.acquire(timeout=RELEASE_SECONDS)
        try:
            with contextlib.suppress(FileNotFoundError):
                if self._is_own(storage.read(self._file)):
                    storage.remove_file(self._file)
            if self._made:
                with contextlib.suppress(OSError):  # it is not empty
                    Path(self._folder).rmdir()
        except (OSError, UserError) as error:
            warn(f"{self._file} could not be removed ({error}); it counts as stale from now on")
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
        """Remove the lock that is there if it is stale; raise UserError if its holder runs."""
        try:
            content = storage.read(self._file)
        except FileNotFoundError:
            return
        holder = Holder.parse(content)
        if holder is not None and holder.is_here():
            if holder.runs():
                raise self._refusal(holder)
        elif not self._stays(content, holder):
            return
        if self._remove(content):
            whose = "an unreadable lock" if holder is None else f"the lock of {holder.described()}"
            warn(f"{self._folder}: {whose}, which no longer runs, is taken over")

    def _stays(self, content: bytes, holder: Holder | None) -> bool:
        """Watch a lock; return whether it stayed the same for so long that it is stale."""
        whose = "a lock that cannot be read" if holder is None else f"the lock of {holder.described()}"
        warn(f"{self._folder}: waits up to {self._stale_seconds:g} s to see whether {whose} is renewed")
        until = time.monotonic() + self._stale_seconds
        while time.monotonic() < until:
            time.sleep(self._beat_seconds / 4)
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
            f"{self._folder}: expected a folder that no other command writes to, got one that {holder.described()} "
            "has locked; wait for it to end, stop it, or name another folder"
        )

    def _remove(self, stale: bytes) -> bool:
        """Remove the lock if its content is still that; return whether this call did."""
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
        """Count the beat up in the lock until it is released. This runs in a thread of its own."""
        own, warned = self._own, False
        while not self._released.wait(self._beat_seconds):
            with self._renewing:
                if self._released.is_set():
                    return
                own = replace(own, beat=own.beat + 1)
                try:
                    found = self._beat(own)
                except (OSError, UserError) as error:
                    if not warned:
                        warn(f"{self._file} could not be renewed ({error}); trying on")
                    warned = True
                    continue
            if found is not None:
                self._lost(f"{self._folder}: {found} has taken over the lock of this `{own.command}`, which ends now")
                return

    def _beat(self, own: Holder) -> str | None:
        """Write the lock anew; return who holds it instead, in words, if another command does."""
        try:
            content = storage.read(self._file)
        except FileNotFoundError:  # removed by hand
            storage.create(self._file, own.render())
            return None
        if not self._is_own(content):
            holder = Holder.parse(content)
            return "an unreadable lock" if holder is None else holder.described()
        storage.write(self._file, own.render())
        return None

    def _handle_sigterm(self) -> None:
        """Release at SIGTERM where that would end the process; jax handles it in a run of several processes."""
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
    """Remove a file of this machine if it still has that content; return whether this call did.

    Of several callers one removes it: each holds a kernel lock on the file that it read, and looks whether the
    name still leads to that file. A file system without such locks leaves a moment between the look and the removal.
    """
    try:
        mode = "r+b" if os.access(file, os.W_OK) else "rb"  # NFS locks only what is open for writing
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
