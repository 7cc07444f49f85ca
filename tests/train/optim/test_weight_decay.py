import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.train.optim.parameter_masks import DecayAll, DecayMatrices, DecayNamed, ParameterShape, is_matrix

PARAMETERS = {
    "up.kernel": ParameterShape(("embed", "mlp"), (4, 8)),
    "up.bias": ParameterShape(("mlp",), (8,)),
    "norm.scale": ParameterShape(("embed",), (4,)),
    "codes.table": ParameterShape(("codes", "embed"), (6, 4)),
}


def test_matrices_are_decayed_and_vectors_are_not():
    assert is_matrix("up.kernel", ("embed", "mlp"), (4, 8))
    assert is_matrix("up.kernel", None, (4, 8))
    assert not is_matrix("norm.scale", ("embed",), (4,))
    assert not is_matrix("blocks.scale", ("layers", "embed"), (3, 4))
    assert not is_matrix("blocks.scale", ("embed",), (3, 4))
    assert not is_matrix("query.bias", ("heads", "head_dim"), (2, 4))


@pytest.mark.parametrize(
    ("decayed", "expected"),
    [
        (DecayMatrices(), {"up.kernel", "codes.table"}),
        (DecayAll(), set(PARAMETERS)),
        (DecayNamed(("up.*",)), {"up.kernel", "up.bias"}),
        (DecayNamed(("*",), but=("*.bias", "codes.table")), {"up.kernel", "norm.scale"}),
    ],
)
def test_weight_decay_applies_to_the_selected_parameters(decayed, expected):
    assert decayed.select(PARAMETERS) == expected


def test_a_pattern_that_matches_no_parameter_is_refused():
    with pytest.raises(
        UserError, match=r"got 'up\.kernels'; did you mean up\.kernel\?; the model has 4, such as codes"
    ):
        DecayNamed(("up.kernels", "up.*")).select(PARAMETERS)
