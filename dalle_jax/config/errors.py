"""The error that a command prints as plain text, without a traceback, and a hint that several errors share."""


class UserError(Exception):
    """Bad input. The message names the field or file, the expected and the actual value, and a way to fix it."""


def install_hint(extra: str) -> str:
    """Return the command that installs the packages of an extra, for a message about a missing package."""
    return f"install it in the repository's folder with: pip install -e '.[{extra}]'"
