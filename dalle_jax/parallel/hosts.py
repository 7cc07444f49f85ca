"""Which of the processes of one run this is: only the first writes logs and pictures."""

import jax


def is_first() -> bool:
    """Whether this process writes what is written once per run."""
    return jax.process_index() == 0


def count() -> int:
    """How many processes take part in the run."""
    return jax.process_count()
