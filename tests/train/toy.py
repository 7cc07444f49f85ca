"""A task small enough to compute by hand: y = x w + b on noisy lines, with a variable that is not a parameter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.parallel.axes import BATCH, EMBED, MLP
from dalle_jax.parallel.layout import Layout, constrain
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.train.task import Objective, UpdateOnce


class Seen(nnx.Variable):
    """The number of rows so far, and their running mean."""


class Model(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        values = jax.random.uniform(rngs.params(), (5, width), minval=-0.5, maxval=0.5)  # one draw: quick to compile
        self.up = nnx.Param(values[:4], axes=(EMBED, MLP))
        self.down = nnx.Param(values[4:].T, axes=(MLP, None))
        self.bias = nnx.Param(jnp.zeros((width,)), axes=(MLP,))
        self.count = Seen(jnp.zeros((), jnp.int32), axes=())
        self.mean = Seen(jnp.zeros((4,)), axes=(EMBED,))
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def see(self, x: Any) -> None:
        self.count[...] = self.count[...] + x.shape[0]
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean(0)

    def __call__(self, x: Any) -> Any:
        self.see(x)
        return self.predict(x)

    def predict(self, x: Any) -> Any:
        hidden = constrain(jnp.tanh(x @ self.up[...] + self.bias[...]), BATCH, MLP)
        return (hidden @ self.down[...])[:, 0]


@dataclass(frozen=True)
class Toy:
    width: int = 8
    noise: float = 0.0
    fixed: bool = False

    def prepare(self, examples: dict[str, list[Any]], seeds: Any) -> dict[str, np.ndarray]:
        x = np.stack(examples["x"]).astype(np.float32)
        noise = np.array([np.random.default_rng(seed).standard_normal() for seed in seeds]) if seeds else 0.0
        return {"x": x, "y": (x.sum(1) + self.noise * noise).astype(np.float32)}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "x": jax.ShapeDtypeStruct((batch_size, 4), jnp.float32),
            "y": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
        }

    def init(self, rngs: nnx.Rngs) -> Model:
        return Model(self.width, rngs)

    def frozen(self) -> dict[str, nnx.Module]:
        return {"offset": Model(8, nnx.Rngs(7))} if self.fixed else {}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("fit", nnx.Param, self.loss, microbatches=UpdateOnce(self.errors, self.see)),)

    def loss(self, module: Any, frozen: Any, batch: Any, key: Any, step: Any) -> Any:
        value, sums, x = self.errors(module, frozen, batch, key, step)
        self.see(module, x, key)
        return value, sums

    def see(self, module: Any, x: Any, key: Any) -> None:
        module.see(x)

    def errors(self, module: Any, frozen: Any, batch: Any, key: Any, step: Any) -> Any:
        offset = frozen["offset"](batch["x"]) if frozen else 0.0
        jitter = self.noise * jax.random.uniform(key, batch["y"].shape) if self.noise else 0.0
        squared = (module.predict(batch["x"]) + offset - batch["y"] - jitter) ** 2
        return squared.mean(), {"loss": (squared.sum(), squared.size), "steps_seen": (step, 1)}, batch["x"]

    def evaluate(self, module: Any, frozen: Any, batch: Any, key: Any) -> Any:
        squared = (module(batch["x"]) - batch["y"]) ** 2
        return {"error": (squared.sum(), squared.size)}

    def images(self, module: Any, frozen: Any, batch: Any, key: Any) -> Any:
        return jnp.broadcast_to(jax.nn.sigmoid(module(batch["x"]))[:, None, None, None], (8, 3, 3, 3))

    def model_files(self) -> dict[str, bytes]:
        return {"model.gin": f"width = {self.width}\n".encode(), "text.model": bytes(range(256))}


@dataclass(frozen=True)
class Lines:
    rows: int = 8
    seed: int = 3
    bad: tuple[int, ...] = ()

    @property
    def batch_size(self) -> int:
        return self.rows

    def batch(self, step: int, rows: Sequence[int]) -> dict[str, list[Any]]:
        x = np.random.default_rng((self.seed, step)).standard_normal((self.rows, 4))[list(rows)]
        return {"x": list(x * np.nan if step in self.bad else x)}

    def evaluation_batches(self, rows: Sequence[int]) -> list[dict[str, list[Any]]]:
        return [self.batch(10**6, rows), self.batch(10**6 + 1, rows)]

    def fingerprint(self) -> str:
        return f"lines {self.rows} {self.seed}"


def layout(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Layout:
    return Layout(make_mesh(Mesh(data, fsdp, tensor)), Rules())


def leaves(tree: Any) -> dict[str, bytes]:
    """Return the bytes of every leaf by its path."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in found}
