"""The one error that a command prints as a line of its own instead of a traceback."""


class UserError(Exception):
    """Something the user gave is wrong: says where, what was expected, what was got and what to do next."""
