"""One step of training by rewards, on one device and on eight."""

import jax
import numpy as np

from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.tasks.reinforcement.reinforce import Reinforcement
from dalle_jax.tasks.reinforcement.reinforce_decoder import DecoderReinforcement
from dalle_jax.train.compiled import CompiledTask
from dalle_jax.train.optim.optimizers import AdamW
from dalle_jax.train.optim.schedules import ConstantRate
from dalle_jax.train.trainer import Trainer


def check_eight_devices_are_as_one(task: Reinforcement | DecoderReinforcement, text: np.ndarray) -> None:
    """Assert that both sample the same codes for the token ids ``text`` [4 T] and find the same metrics of a step."""
    trainer, found = Trainer(steps=1, schedule=ConstantRate(1e-3), optimizer=AdamW(beta1=0.0)), []
    for mesh in (Mesh(1, 1, 1), Mesh(2, 2, 2)):
        layout = Layout(make_mesh(mesh), Rules())
        compiled = CompiledTask(task, trainer, layout)
        state = compiled.state_spec.init_sharded(layout, 0)
        drawn = compiled.rollout(state, layout.put_batch({"prompt": text}), 3)
        samples = {name: np.asarray(one) for name, one in drawn.items()}
        batch = task.training_batches(samples, task.judge("abcd", samples)).batches[0]
        found.append((samples["codes"], jax.device_get(compiled.step(state, None, layout.put_batch(batch))[1])))
    (codes, sums), (other_codes, other_sums) = found
    np.testing.assert_array_equal(codes, other_codes)
    for name, (total, count) in sums.items():
        np.testing.assert_allclose(other_sums[name][0], total, rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(other_sums[name][1], count, rtol=1e-3, err_msg=name)
