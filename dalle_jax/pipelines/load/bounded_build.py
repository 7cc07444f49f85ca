"""Bounds on the network that a ``model.gin`` of others describes, so that building its shapes takes bounded work.

Sizes have upper limits. Besides, a network may not draw more arrays than its checkpoint holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import jax
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.layers.layer_keys import LayerKeys, rngs_of
from dalle_jax.models.model_configs import ModelConfig, Network

MAX_SIZE = 2**24
"""Largest width, vocabulary or other size; tables of this many rows are within reach of one host."""
MAX_LAYERS = 1000
"""Largest number of layers, and of the entries of a list. DALL·E of 12 billion parameters has 64 layers."""
LAYERS = frozenset({"depth", "depths", "layers", "encoder_layers", "decoder_layers", "blocks", "block_kernels"})
"""Fields that count layers."""


def check_sizes(config: object, name: str) -> None:
    """Raise ``UserError`` that names a field of a model's config which is larger than any network is."""
    for path, value, most in _sizes(config, "model", MAX_SIZE):
        if value > most:
            raise UserError(f"{name}: {path}: expected at most {most:,}, got {value:,}")


def _sizes(value: object, path: str, most: int) -> Iterator[tuple[str, int, int]]:
    """Yield each whole number of a config and each length of a list, with its path and its limit."""
    if isinstance(value, int):
        yield path, value, most
    elif isinstance(value, tuple):
        yield f"the length of {path}", len(value), MAX_LAYERS
        for one in value[:MAX_LAYERS]:
            yield from _sizes(one, path, most)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _sizes(one, f"{path}.{key}", most)
    elif is_dataclass(value):
        for field in fields(value):
            limit = MAX_LAYERS if field.name in LAYERS else MAX_SIZE
            yield from _sizes(getattr(value, field.name), f"{path}.{field.name}", limit)


class TooManyArrays(Exception):
    """A network that draws more arrays than its checkpoint holds."""


class CountedKeys(LayerKeys):
    """A stream of random keys that ends after ``most`` of them with ``TooManyArrays``."""

    def __init__(self, most: int):
        super().__init__(0)
        self.most = most

    def __call__(self) -> jax.Array:
        """Return the next key."""
        if self.drawn >= self.most:
            raise TooManyArrays
        return super().__call__()


def build_shapes(config: ModelConfig[Network], arrays: int, name: str) -> Network:
    """Build the abstract network of a config whose checkpoint holds ``arrays`` arrays.

    An initialiser draws at most one key for an array; a stack of layers draws one for all, and has at most
    ``MAX_LAYERS``. Raise ``UserError`` with ``name`` if the network needs more keys than there are arrays.
    """

    try:
        return nnx.eval_shape(lambda: config.build(rngs_of(CountedKeys(arrays))))
    except TooManyArrays as error:
        raise UserError(
            f"{name}: expected a network whose arrays are in its checkpoint, which holds {arrays:,}, got one of more; "
            "model.gin and the checkpoint belong to different networks"
        ) from error
