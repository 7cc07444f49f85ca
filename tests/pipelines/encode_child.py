"""A process that encodes and can be killed: ``encode_child.py OUT PAUSE``. The environment gives its process index."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from flax import nnx

from dalle_jax.commands import encode as command
from dalle_jax.config.errors import UserError
from dalle_jax.models.vqvae import Vqvae, VqvaeConfig
from dalle_jax.parallel import hosts
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules

TOKENIZER = VqvaeConfig(
    downsample=8, width=8, blocks=0, codebook_size=300, code_width=4, stem="patch", block_kernels=(1,)
)
COUNT, SIDE = 40, 16


@dataclass(frozen=True)
class Noise:
    """Images that differ in every epoch; each takes ``pause`` seconds."""

    pause: float = 0.0

    def open(self) -> "Noise":
        return self

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> dict:
        time.sleep(self.pause)
        image = np.random.default_rng((index, epoch)).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        return {"key": str(index), "image": image, "captions": [f"{index} in {epoch}", f"{index} again"]}

    def fingerprint(self) -> str:
        return "noise"


@dataclass(frozen=True)
class Run:
    """The fields of ``runs.EncodeRun``, with ``Noise`` as the source."""

    source: Noise
    network: str = "tokenizer"
    clip: None = None
    image_size: int = SIDE
    batch_size: int = 8
    crops: int = 2
    shard_examples: int = 3
    images: None = None
    workers: int = 0
    held_out: None = None
    part: str = "training"
    mesh: Mesh = field(default_factory=Mesh)
    rules: Rules = field(default_factory=Rules)


def tokenizer() -> Vqvae:
    return Vqvae(TOKENIZER, rngs=nnx.Rngs(0))


if __name__ == "__main__":
    command.load_image_tokenizer = lambda place, layout: tokenizer()
    command.render = lambda config: "# a test\n"
    try:
        hosts.join()
        command.encode_source(Run(Noise(float(sys.argv[2]))), Path(sys.argv[1]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
