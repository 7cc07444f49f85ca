"""``python -m dalle_jax COMMAND``: run a command; errors that the user can fix become one line and exit code 2."""

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
from dalle_jax.commands.table import COMMANDS, GROUPS, Command
from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean, find_named, printable
from dalle_jax.untrusted import check_text

PROGRAM = "dalle-jax"

USER_ERRNOS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    }
)
"""Operating-system errors that the user can fix: a full disk, a missing file, a folder that is not writable."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ``UserError`` instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the error as one line with a pointer to the help."""
        raise UserError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if the command says so, 2 for bad input, 130 after Ctrl-C."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _print_error(str(error), error.code)
    except BrokenPipeError:  # the reader of the output has closed it, as in `| head`
        _discard_output()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        text = _fixable_os_error(error) or _absent_platform(error)
        if text is None:
            raise
        _discard_output()
        return _print_error(printable(text))


def _run(argv: Sequence[str]) -> int:
    if not argv:
        raise UserError(f"expected a command: {', '.join(command.name for command in COMMANDS)} (see {PROGRAM} --help)")
    name = argv[0]
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    command = find_named(name, COMMANDS, "a command")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal's encoding may lack a character
    return _run_command(command, argv[1:])


def _run_command(command: Command, argv: Sequence[str]) -> int:
    """Import the command's module, read its flags and run it."""
    module = importlib.import_module(command.module)
    parser = Parser(prog=f"{PROGRAM} {command.name}", description=command.help, allow_abbrev=False)
    module.add_arguments(parser)
    try:
        args, unknown = parser.parse_known_args(argv)
    except SystemExit as end:  # --help was printed
        return end.code if isinstance(end.code, int) else 0
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        parser.error(f"unknown argument {unknown[0]}{did_you_mean(unknown[0].partition('=')[0], flags)}")
    for flag, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_text(text, f"--{flag.replace('_', '-')}")
    return module.run(args)


def _overview() -> str:
    """Return the text of ``--help``: the commands by group."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"usage: {PROGRAM} COMMAND [--help] ..."]
    for heading, commands in GROUPS.items():
        lines += ["", f"{heading}:", *(f"  {command.name:<{width}}  {command.help}" for command in commands)]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help lists the flags of a command. --version: {__version__}"])


def _fixable_os_error(error: BaseException | None) -> str | None:
    """Return one line if the error or one of its causes is in ``USER_ERRNOS``, else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in USER_ERRNOS:
            names = [str(name) for name in (error.filename, error.filename2) if name is not None]
            return ": ".join([*names, error.strerror or os.strerror(error.errno or 0)])
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            if os.strerror(number) in str(error):  # tensorstore raises other types with this text
                lines = [line for line in str(error).splitlines() if os.strerror(number) in line]
                return lines[0].strip()[:500]
        error = error.__cause__
    return None


def _absent_platform(error: Exception) -> str | None:
    """Return one line if JAX cannot start a platform that ``JAX_PLATFORMS`` names, else None."""
    given = os.environ.get("JAX_PLATFORMS")
    if not given or not isinstance(error, (RuntimeError, AssertionError)):
        return None
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        return (
            f"JAX_PLATFORMS: expected platforms that JAX finds on this machine, or unset, got {given!r}; "
            "the cpu is always there, a gpu needs the package jax[cuda13], and a TPU jax[tpu]"
        )
    return None


def _print_error(text: str, code: int = UserError.code) -> int:
    """Print each line of the text as an error; return the exit code, by default that of bad input."""
    for line in text.splitlines() or [""]:
        print(f"{PROGRAM}: error: {printable(line)}", file=sys.stderr)
    return code


def _discard_output() -> None:
    """Redirect standard output to the null device, so that flushing it at exit does not fail again."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output without a descriptor, as in tests
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


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
