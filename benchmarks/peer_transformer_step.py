"""DALLE-pytorch's DALLE: one training step (forward, backward, Adam) on tokens and codes, as in its train_dalle.py."""

import peer_stubs  # noqa: F401  before dalle_pytorch
import torch
from dalle_pytorch import DALLE, DiscreteVAE

BATCH, TEXT, CODES = 8, 64, 256
MIX = ("axial_row", "axial_col", "conv_like")


def network(kinds: tuple[str, ...]) -> DALLE:
    """Create a DALLE of width 256, depth 8 and 8 heads of 64; all else is its default.

    The defaults are rotary positions, token shift and a GEGLU of four times the width.
    """
    torch.manual_seed(0)
    vae = DiscreteVAE(image_size=64, num_layers=2, num_tokens=1024, codebook_dim=8, hidden_dim=8, num_resnet_blocks=0)
    return DALLE(
        dim=256, vae=vae, num_text_tokens=8192, text_seq_len=TEXT, depth=8, heads=8, dim_head=64, attn_types=kinds
    )


def step(kinds: tuple[str, ...]):
    model = network(kinds)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=3e-4)
    text = torch.randint(1, 8192, (BATCH, TEXT))
    codes = torch.randint(0, 1024, (BATCH, CODES))

    def call() -> None:
        loss = model(text.clone(), codes, return_loss=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


CASES = {"full": lambda: step(("full",)), "mix": lambda: step(MIX)}
