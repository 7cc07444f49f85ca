"""A whole smoke demo, made once for all tests of the commands that use it."""

from pathlib import Path

import pytest

from dalle_jax.__main__ import main


@pytest.fixture(scope="session")
def smoke_demo(tmp_path_factory) -> Path:
    """Run ``demo configs/smoke/demo.gin``, two steps of every stage, and return its folder."""
    out = tmp_path_factory.mktemp("smoke") / "demo"
    assert main(["demo", "smoke/demo.gin", "--out", str(out)]) == 0
    return out
