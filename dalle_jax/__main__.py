"""``python -m dalle_jax COMMAND``: picks the command; what the user can mend becomes one line and exit code 2."""

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from dalle_jax import __version__
from dalle_jax.commands.leave import leave
from dalle_jax.commands.memory import keep_large_buffers
from dalle_jax.commands.table import COMMANDS, Command
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean, printable

PROGRAM = "dalle-jax"

USERS_ERRORS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    }
)
"""Errors of the operating system that the user can mend: a full disk, a missing file, a folder that is not writable."""


class Parser(argparse.ArgumentParser):
    """Raises ``UserError`` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """One line, and where to read on."""
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 as the command says, 2 for bad input, 130 after Ctrl-C."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _complain(str(error))
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        _silence()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        text = _mendable(error)
        if text is None:
            raise
        _silence()
        return _complain(printable(text))


def _run(argv: Sequence[str]) -> int:
    if not argv:
        raise UserError(f"a command is missing: {', '.join(one.name for one in COMMANDS)} (see {PROGRAM} --help)")
    name = argv[0]
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    command = next((one for one in COMMANDS if one.name == name), None)
    if command is None:
        names = [one.name for one in COMMANDS]
        said = did_you_mean(name, names) or f"; the commands are {', '.join(names)}"
        raise UserError(f"{name!r} is no command{said} (see {PROGRAM} --help)")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter is no reason to stop
    return _run_command(command, argv[1:])


def _run_command(command: Command, argv: Sequence[str]) -> int:
    """Import the command's module, read its flags and run it."""
    module = importlib.import_module(command.module)
    parser = Parser(prog=f"{PROGRAM} {command.name}", description=command.help, allow_abbrev=False)
    module.add_arguments(parser)
    try:
        args, strange = parser.parse_known_args(argv)
    except SystemExit as end:  # --help, printed
        return end.code if isinstance(end.code, int) else 0
    if strange:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        parser.error(f"unknown argument {strange[0]}{did_you_mean(strange[0].partition('=')[0], flags)}")
    return module.run(args)


def _overview() -> str:
    width = max(len(one.name) for one in COMMANDS)
    lines = [f"  {one.name:<{width}}  {one.help}" for one in COMMANDS]
    return "\n".join([f"usage: {PROGRAM} COMMAND [--help] ...", "", *lines, "", f"  --version: {__version__}"])


def _mendable(error: BaseException | None) -> str | None:
    """One line for an error of the operating system that the user can mend, wrapped or not; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in USERS_ERRORS:
            names = [str(name) for name in (error.filename, error.filename2) if name is not None]
            return ": ".join([*names, error.strerror or os.strerror(error.errno or 0)])
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            if os.strerror(number) in str(error):  # as tensorstore words it
                lines = [line for line in str(error).splitlines() if os.strerror(number) in line]
                return lines[0].strip()[:500]
        error = error.__cause__
    return None


def _complain(text: str) -> int:
    """Print each line of the text as an error; return the exit code of bad input."""
    for line in text.splitlines() or [""]:
        print(f"{PROGRAM}: error: {printable(line)}", file=sys.stderr)
    return 2


def _silence() -> None:
    """Let output that is still unwritten go nowhere, so that Python does not fail over it again on its way out."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream of a test
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def run_process() -> NoReturn:
    """Run the command of this process's arguments and end the process with its exit code."""
    keep_large_buffers()
    try:
        code = main()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    leave(code)


if __name__ == "__main__":
    run_process()
