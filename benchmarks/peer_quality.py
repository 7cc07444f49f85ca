"""DALLE-pytorch trained for a given CPU time on the arrays that quality.py prepares, and its images of prompts.

The loops are those of its train_vae.py and train_dalle.py, on one thread. A stage saves every two minutes and resumes.

    python benchmarks/peer_quality.py train --data DIR --seconds 2700 --out RUN
    python benchmarks/peer_quality.py sample --data DIR/report --run RUN --guidance 3 --out IMAGES.npy
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peer_stubs  # noqa: F401  before dalle_pytorch
import torch
from dalle_pytorch import DALLE, DiscreteVAE

SAVE_EVERY = 120.0  # CPU seconds
TOKENIZER_BATCH, BATCH = 8, 32  # 8 is the default of train_vae.py
CODES, TOKENIZER_SHARE = 2048, 0.2


class Budget:
    """CPU seconds of a stage, which go on counting after a restart."""

    def __init__(self, seconds: float, spent: float = 0.0):
        self.seconds, self.before = seconds, spent
        self.began = time.process_time()

    @property
    def spent(self) -> float:
        return self.before + time.process_time() - self.began

    @property
    def share(self) -> float:
        return min(1.0, self.spent / self.seconds)


def image_tokenizer(size: int, straight_through: bool = False) -> DiscreteVAE:
    """Create its dVAE with 3 layers of width 64 and ``CODES`` codes.

    The README's residual block and code vectors of 512 are left out, which used more codes (docs/results.md).
    """
    return DiscreteVAE(
        image_size=size, num_layers=3, num_tokens=CODES, codebook_dim=64, hidden_dim=64, num_resnet_blocks=0,
        straight_through=straight_through,
    )  # fmt: skip


def transformer(vae: DiscreteVAE, vocabulary: int, text_length: int) -> DALLE:
    """Create a DALLE of width 256 and depth 4; all else is its default: rotary positions, token shift, GEGLU."""
    return DALLE(dim=256, vae=vae, num_text_tokens=vocabulary, text_seq_len=text_length, depth=4, heads=4, dim_head=64)


def train(
    model: torch.nn.Module, rate: float, step: Callable[[int, float], torch.Tensor], seconds: float, file: Path
) -> None:
    """Train with Adam until the CPU time is spent. ``step`` takes the step and the share of the time that is spent.

    The learning rate falls to 0 along a cosine, as ours does, instead of waiting for a plateau.
    """
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=rate)
    stored = torch.load(file) if file.exists() else None
    number = 0
    if stored is not None:
        model.load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        number = stored["step"]
    budget = Budget(seconds, 0.0 if stored is None else stored["seconds"])
    saved = budget.spent

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "step": number, "seconds": budget.spent}, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    while budget.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (number + 1) / 100) * 0.5 * (1 + math.cos(math.pi * budget.share))
        loss = step(number, budget.share)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        number += 1
        if number % 50 == 0:
            print(f"{file.stem} step {number} CPU {budget.spent:.0f} s loss {loss.item():.4f}", flush=True)
        if budget.spent - saved > SAVE_EVERY:
            save()
            saved = budget.spent
    save()


def rows_of(count: int, number: int, seed: int, batch: int) -> torch.Tensor:
    """Return the rows of a batch: a new order in each epoch, from the seed and the step alone."""
    epoch, place = divmod(number * batch, count)
    orders = [torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch + n)) for n in (0, 1)]
    return torch.cat(orders)[place : place + batch]


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Return uint8 [B H W 3] as float [B 3 H W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def train_both(options: argparse.Namespace) -> None:
    """Train the dVAE and then the DALLE for ``options.seconds`` CPU seconds together, and save both."""
    images, text = np.load(options.data / "images.npy"), torch.from_numpy(np.load(options.data / "text.npy")).long()
    about = json.loads((options.data / "about.json").read_text())
    options.out.mkdir(parents=True, exist_ok=True)
    vae = image_tokenizer(images.shape[1], options.straight_through)

    def reconstruct(number: int, share: float) -> torch.Tensor:
        temperature = options.temperatures[0] * (options.temperatures[1] / options.temperatures[0]) ** share
        rows = rows_of(len(images), number, 0, TOKENIZER_BATCH).numpy()
        return vae(to_pixels(images[rows]), return_loss=True, temp=temperature)

    tokenizer_seconds = options.seconds * TOKENIZER_SHARE
    train(vae, options.rates[0], reconstruct, tokenizer_seconds, options.out / "vae.pt")
    began = time.process_time()
    with torch.no_grad():
        codes = torch.cat([vae.get_codebook_indices(to_pixels(images[i : i + 64])) for i in range(0, len(images), 64)])
    left = options.seconds - tokenizer_seconds - (time.process_time() - began)
    dalle = transformer(vae, about["vocabulary"], text.shape[1])

    def predict(number: int, share: float) -> torch.Tensor:
        rows = rows_of(len(images), number, 1000, BATCH)
        return dalle(text[rows].clone(), codes[rows], return_loss=True, null_cond_prob=0.2)

    train(dalle, options.rates[1], predict, left, options.out / "dalle.pt")


def sample(options: argparse.Namespace) -> None:
    """Draw one image per prompt with ``generate_images``, as generate.py does (the most likely tenth of the tokens)."""
    text = torch.from_numpy(np.load(options.data / "prompts.npy"))[: options.prompts].long()
    about = json.loads((options.data.parent / "about.json").read_text())
    dalle = transformer(image_tokenizer(about["size"]), about["vocabulary"], text.shape[1])
    dalle.load_state_dict(torch.load(options.run / "dalle.pt")["model"])
    torch.manual_seed(0)
    drawn = []
    for start in range(0, len(text), 64):
        some = dalle.generate_images(
            text[start : start + 64].clone(), filter_thres=0.9, cond_scale=options.guidance, use_cache=True
        )
        drawn.append(to_bytes(some))
    np.save(options.out, np.concatenate(drawn))
    if options.reconstructed:
        reference = np.load(options.data / "reference.npy")
        np.save(
            options.reconstructed,
            np.concatenate([reconstruct(dalle.vae, one) for one in np.array_split(reference, 20)]),
        )


@torch.no_grad()
def reconstruct(vae: DiscreteVAE, images: np.ndarray) -> np.ndarray:
    """Return the reconstructions of images from their most likely codes; the decoder works on normalised values."""
    return to_bytes(vae.decode(vae.get_codebook_indices(to_pixels(images))))


def to_bytes(decoded: torch.Tensor) -> np.ndarray:
    """Return the dVAE's output, in the range -1 to 1 that it normalises to, as uint8 [B H W 3]."""
    return (((decoded + 1) / 2).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def main() -> None:
    """Train DALLE-pytorch or sample it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training, sampling = commands.add_parser("train"), commands.add_parser("sample")
    for one in (training, sampling):
        one.add_argument("--data", type=Path, required=True)
        one.add_argument("--out", type=Path, required=True)
    training.add_argument("--seconds", type=float, required=True, help="CPU seconds of both stages together")
    training.add_argument("--rates", type=float, nargs=2, default=(3e-3, 1e-3), help="of the dVAE and of the DALLE")
    training.add_argument("--temperatures", type=float, nargs=2, default=(1.0, 0.5), help="of the dVAE, first and last")
    training.add_argument("--straight-through", action="store_true", help="of the dVAE's Gumbel-softmax")
    sampling.add_argument("--run", type=Path, required=True)
    sampling.add_argument("--reconstructed", type=Path, help="the file for reconstructions of the reference images")
    sampling.add_argument("--guidance", type=float, default=3.0, help="cond_scale")
    sampling.add_argument("--prompts", type=int, help="draw only the first ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (train_both if options.command == "train" else sample)(options)


if __name__ == "__main__":
    main()
