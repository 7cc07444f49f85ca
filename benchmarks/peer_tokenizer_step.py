"""Training of DALLE-pytorch's DiscreteVAE: one step at 64 px (forward, backward, Adam), as its train_vae.py does it."""

import peer_stubs  # noqa: F401  before dalle_pytorch
import torch
from dalle_pytorch import DiscreteVAE

SIZE, BATCH, LAYERS, BLOCKS, HIDDEN, CODES, CODE_WIDTH = 64, 8, 2, 2, 64, 512, 64


def training_step():
    torch.manual_seed(0)
    model = DiscreteVAE(
        image_size=SIZE,
        num_layers=LAYERS,
        num_tokens=CODES,
        codebook_dim=CODE_WIDTH,
        hidden_dim=HIDDEN,
        num_resnet_blocks=BLOCKS,
        temperature=0.9,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels = torch.rand(BATCH, 3, SIZE, SIZE)

    def call() -> None:
        loss = model(pixels, return_loss=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


CASES = {"training_step": training_step}
