"""The error that a command prints as plain text, without a traceback, and a hint that several errors share."""

MAX_LETTERS = 2000
"""Largest number of letters of a line of a message, since names and values of files may have any length."""


class UserError(Exception):
    """Bad input. The message names the field or file, the expected and the actual value, and a way to fix it."""

    code = 2
    """The exit code of a command that ends by this error."""

    def __init__(self, text: str) -> None:
        super().__init__("\n".join(map(_shortened, text.split("\n"))))


def _shortened(line: str) -> str:
    """Leave out the middle of a line of more than ``MAX_LETTERS``."""
    half = MAX_LETTERS // 2
    return line if len(line) <= MAX_LETTERS else f"{line[:half]} … {line[-half:]}"


def install_hint(extra: str) -> str:
    """Return the command that installs the packages of an extra, for a message about a missing package."""
    return f"install it in the repository's folder with: pip install -e '.[{extra}]'"
