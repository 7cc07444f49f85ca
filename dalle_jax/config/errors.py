"""The error that a command prints as plain text, without a traceback."""


class UserError(Exception):
    """Bad input. The message names the field or file, the expected and the actual value, and a way to fix it."""
