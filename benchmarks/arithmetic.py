"""FLOPs of the training step of a config."""

from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.runs import TrainRun
from dalle_jax.train.compiled import CompiledTask


def flops_of_a_step(config: TrainRun) -> float:
    """Return the model FLOPs of one training step (train/flops.py), with those of frozen networks."""
    layout = Layout(make_mesh(config.mesh), config.rules)
    compiled = CompiledTask(config.task.open_for_plan(), config.trainer, layout)
    model, _ = compiled.flops(config.data.batch_size)
    if model is None:
        raise SystemExit("expected a step whose FLOPs are known")
    return model
