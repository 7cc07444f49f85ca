"""Matrices and tables in the dtype in which a network multiplies them, for inference.

Training keeps parameters in float32 and casts them in each product. Sampling reads them once per code, so a network of
bfloat16 needs half the memory and bandwidth with its matrices stored in bfloat16. Its outputs stay the same to the bit.
Norms, biases and tables that are summed in float32 stay in float32.
"""

from collections.abc import Mapping

import numpy as np
from flax import nnx

from dalle_jax.layers.code_tokens import CodeTokens
from dalle_jax.layers.embeddings import Embedding, GridEmbedding
from dalle_jax.layers.linear import Linear


def compute_dtypes(module: nnx.Module) -> dict[str, np.dtype]:
    """Return the dtype of each variable, by dotted path, that is only read after a cast to another dtype.

    ``module`` may be abstract. Tables of codes are left out until the networks over code vectors are folded into them.
    """
    found: dict[str, np.dtype] = {}
    kept: list[str] = []
    for path, node in nnx.iter_graph(module):
        name = ".".join(map(str, path))
        if isinstance(node, Linear):
            found[f"{name}.kernel"] = node.dtype
        elif isinstance(node, Embedding):
            found[f"{name}.table"] = node.dtype
        elif isinstance(node, GridEmbedding) or (isinstance(node, CodeTokens) and node.read is not None):
            kept.append(f"{name}.")
    return {name: dtype for name, dtype in found.items() if dtype != np.float32 and not name.startswith(tuple(kept))}


def cast_variables(module: nnx.Module, dtypes: Mapping[str, np.dtype]) -> None:
    """Cast variables in place, by dotted path; shardings stay."""
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        dtype = dtypes.get(".".join(map(str, path)))
        if dtype is not None and variable.get_value().dtype != dtype:
            variable.set_value(variable.get_value().astype(dtype))
