"""Which of the processes of one run this is: only the first writes logs and pictures."""

import jax


def is_first() -> bool:
    """Whether this process writes what is written once per run."""
    return jax.process_index() == 0
