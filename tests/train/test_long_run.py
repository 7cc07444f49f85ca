"""A run of 5,000 steps on tars of images, with checkpoints, evaluation and images: memory and compilations stay."""

import gc

import jax
import pytest

from dalle_jax.__main__ import main
from dalle_jax.train.output.writers import Writers
from tests.conftest import resident_bytes
from tests.small_training import TRAINING, write_tars

STEPS, SETTLED = 5000, 1000
COMPILED = "/jax/core/compile/backend_compile_duration"
EVERY = {"log_every": 50, "evaluate_every": 250, "save_every": 500, "images_every": 1000}


@pytest.mark.slow
def test_a_run_of_5000_steps_keeps_its_memory_and_compiles_nothing_after_the_first_images(tmp_path, monkeypatch):
    compiled: list[str] = []
    notes: list[tuple[int, int, int]] = []
    write = Writers.metrics

    def listen(event: str, seconds: float, **more: object) -> None:
        compiled.append(event)

    def noted(self, step, *args, **more):
        gc.collect()
        notes.append((step, resident_bytes(), compiled.count(COMPILED)))
        return write(self, step, *args, **more)

    monkeypatch.setattr(Writers, "metrics", noted)
    jax.monitoring.register_event_duration_secs_listener(listen)
    (tmp_path / "t.gin").write_text(TRAINING.format(tars=write_tars(tmp_path / "tars")))
    sets = [f"--set=trainer.{name}={value}" for name, value in ({"steps": STEPS} | EVERY).items()]
    command = ["train", str(tmp_path / "t.gin"), *sets, "--set=mesh.data=1", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    jax.monitoring.unregister_event_duration_listener(listen)
    settled = [(size, count) for step, size, count in notes if step > SETTLED]
    sizes, counts = zip(*settled, strict=True)
    print(
        f"{max(sizes) / min(sizes) - 1:.1%} between {min(sizes):,} and {max(sizes):,} bytes; {counts[-1]} compilations"
    )
    assert notes[-1][0] == STEPS and len(settled) >= (STEPS - SETTLED) // EVERY["log_every"]
    assert set(counts) == {counts[-1]} and counts[-1] > 0
    assert max(sizes) <= 1.03 * min(sizes)
