import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.train.optimizers import is_decayed
from dalle_jax.train.schedules import ConstantRate, CosineRate, InverseRootRate, LinearRate, in_step


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ConstantRate(2.0, warmup=4), {0: 0.5, 1: 1.0, 3: 2.0, 99: 2.0}),
        (CosineRate(2.0, warmup=10), {0: 0.2, 9: 2.0, 10: 2.0, 60: 1.0, 110: 0.0}),
        (CosineRate(2.0, final=0.5), {0: 2.0, 55: 1.5, 110: 1.0}),
        (LinearRate(2.0, warmup=10, final=0.1), {0: 0.2, 10: 2.0, 60: 1.1, 110: 0.2}),
        (InverseRootRate(2.0, warmup=4), {0: 0.5, 3: 2.0, 15: 1.0, 63: 0.5}),
    ],
)
def test_rates_by_hand(schedule, expected):
    for step, rate in expected.items():
        assert schedule.value(step, 110) == pytest.approx(rate, abs=1e-12)
        np.testing.assert_allclose(in_step(schedule, jnp.asarray(step), 110), rate, rtol=1e-6, atol=1e-6)


def test_matrices_are_decayed_and_vectors_are_not():
    assert is_decayed("up.kernel", ("embed", "mlp"), (4, 8))
    assert is_decayed("up.kernel", None, (4, 8))
    assert not is_decayed("norm.scale", ("embed",), (4,))
    assert not is_decayed("blocks.scale", ("layers", "embed"), (3, 4))
    assert not is_decayed("blocks.scale", ("embed",), (3, 4))
    assert not is_decayed("query.bias", ("heads", "head_dim"), (2, 4))
