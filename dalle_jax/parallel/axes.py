"""The names of logical axes, the dimensions of parameters and activations.

A parameter has its logical axes as metadata, ``nnx.Param(value, axes=(EMBED, HEADS, HEAD_DIM))``. An activation names
them in ``constrain(x, BATCH, SEQ, EMBED)``. ``rules.Rules`` maps each logical axis to mesh axes.
"""

BATCH = "batch"
CANDIDATES = "candidates"
SEQ = "seq"
EMBED = "embed"
HEADS = "heads"
HEAD_DIM = "head_dim"
MLP = "mlp"
VOCAB = "vocab"
CODES = "codes"
POSITIONS = "positions"
LAYERS = "layers"
HEIGHT = "height"
WIDTH = "width"
CHANNELS = "channels"
KERNEL = "kernel"
