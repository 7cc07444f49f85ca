"""The vocabulary of logical axes: what the dimensions of parameters and activations mean.

A parameter carries its axes as metadata, ``nnx.Param(value, axes=(EMBED, HEADS, HEAD_DIM))``, and an activation names
them in ``constrain(x, BATCH, SEQ, EMBED)``; ``rules.Rules`` says which mesh axes each of them is laid over.
"""

BATCH = "batch"
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
