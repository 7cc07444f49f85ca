"""Scripts of this folder, run by the Python of a separate environment with their packages."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

TORCH, FLAX = "DALLE_JAX_REFERENCE", "DALLE_JAX_REFERENCE_FLAX"
"""Environment variables that name a Python: one with the packages on torch, one with DALL·E mini and its old Flax."""
SECONDS = 300


def by_reference(script: str, *arguments: object, variable: str = TORCH) -> dict[str, np.ndarray]:
    """Run a script in a separate Python and return the arrays of its last argument, an .npz."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} is not set")
    command = [python, Path(__file__).with_name(script), *map(str, arguments)]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_", "PYTHONPATH"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=own)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(str(arguments[-1])))
