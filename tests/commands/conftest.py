"""A whole smoke demo, run once for all tests of the commands that read it, in whichever worker comes first."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands import demo


@pytest.fixture(scope="session", autouse=True)
def few_images_for_the_scene_reader() -> Iterator[None]:
    """Check the scene reader on 6 images of each level instead of 300, which take longer than the demo's training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "READER_IMAGES", 6)
        yield


@pytest.fixture(scope="session")
def smoke_demo(tmp_path_factory) -> Path:
    """Run ``demo configs/smoke/demo.gin``, two steps of every stage, and return its folder. Tests only read it."""
    of_this_worker = tmp_path_factory.getbasetemp()
    of_all_workers = of_this_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else of_this_worker
    out = of_all_workers / "smoke_demo"
    with (of_all_workers / "smoke_demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "report.html").exists():
            assert main(["demo", "smoke/demo.gin", "--out", str(out)]) == 0
    return out
