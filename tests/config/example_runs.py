"""Small config dataclasses for tests: every type of field, variants within variants, and maps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Constant:
    rate: float


@dataclass(frozen=True)
class Cosine:
    rate: float
    warmup: int = 10


@dataclass(frozen=True)
class Adam:
    schedule: Constant | Cosine
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0


@dataclass(frozen=True)
class Lion:
    schedule: Constant | Cosine
    beta: float = 0.9
    clip: int | None = None


@dataclass(frozen=True)
class Model:
    width: int
    heads: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


@dataclass(frozen=True)
class Ema:
    decay: float = 0.99


@dataclass(frozen=True)
class Tokenize:
    model: Model
    codes: int


@dataclass(frozen=True)
class Generate:
    model: Model
    folder: str = "runs/tokenizer"
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trainer:
    steps: int
    optimizer: Adam | Lion
    ema: Ema | None = None
    resume: bool = True
    levels: tuple[int, ...] = (1,)
    limit: int | None = None


@dataclass(frozen=True)
class Mesh:
    data: int = -1
    tensor: int = 1


@dataclass(frozen=True)
class Train:
    task: Tokenize | Generate
    trainer: Trainer
    mesh: Mesh = field(default_factory=Mesh)
    wide: Mesh = field(default_factory=lambda: Mesh(data=2, tensor=4))
    name: str = "run"


@dataclass(frozen=True)
class Part:
    model: Model
    weight: float = 1.0


@dataclass(frozen=True)
class Mixed:
    """A required map of unions, a map of one class, a map of leaves, and a map with default entries."""

    schedules: Mapping[str, Constant | Cosine]
    parts: Mapping[str, Part] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    meshes: dict[str, Mesh] = field(default_factory=lambda: {"small": Mesh(2, 3), "large": Mesh(4, 5)})


@dataclass(frozen=True)
class Measure:
    folder: str
    seed: int = 0


PLAIN = """
WIDTH = 64
task = @Generate
task.model.width = %WIDTH
trainer.steps = 100
trainer.optimizer = @Adam
trainer.optimizer.schedule = @Cosine
trainer.optimizer.schedule.rate = 1e-3
"""

MAPS = """
schedules.b = @Cosine
schedules.b.rate = 0.5
schedules.a = @Constant
schedules.a.rate = 0.25
parts.x.model.width = 8
needs.clip = 'runs/clip'
"""
