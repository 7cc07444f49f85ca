"""The config of the trainer, and the result of a run."""

from dataclasses import dataclass, field

from dalle_jax.parallel.reduction import ReduceDtype
from dalle_jax.train.optim import optimizers, parameter_masks, schedules
from dalle_jax.train.optim.ema import Ema
from dalle_jax.train.optim.gradient_spikes import SkipSpikes


@dataclass(frozen=True)
class Trainer:
    """Training settings that do not depend on the task.

    Fields that end in ``_every`` count steps; None means never. The last step always saves a checkpoint.

    - ``keep``: the number of newest checkpoints that are kept. Checkpoints of steps that are multiples of
      ``keep_every`` are never deleted.
    - ``weight_decay_mask``: the parameters that weight decay applies to.
    - ``trainable``: the parameters that are trained; all others keep their values.
    - ``rate_factors``: factors of the schedule's rate by parameter; None is 1 for all.
    - ``reduce_dtype``: the dtype in which gradients are summed over devices (parallel/reduction.py).
    - ``suites_every``: the evaluation suites of the run are run on its EMA weights.
    - ``stall_seconds``: the process ends if no step finishes for this long (train/monitor/watchdog.py).
    - ``initial``: the folder of a trained or imported model. A new run starts from its EMA weights (fine-tuning); a
      resumed run ignores it. A decoder that inpaints may start from one that does not.
    """

    steps: int
    schedule: schedules.Schedule
    optimizer: optimizers.Optimizer = field(default_factory=optimizers.AdamW)
    weight_decay_mask: parameter_masks.WeightDecayMask = field(default_factory=parameter_masks.DecayMatrices)
    trainable: parameter_masks.Trainable = field(default_factory=parameter_masks.TrainAll)
    rate_factors: parameter_masks.RateFactors | None = None
    ema: Ema | None = None
    seed: int = 0
    accumulate: int = 1
    reduce_dtype: ReduceDtype = "float32"
    clip_norm: float | None = None
    log_every: int = 50
    evaluate_every: int | None = None
    images_every: int | None = None
    suites_every: int | None = None
    save_every: int | None = None
    keep: int = 2
    keep_every: int | None = None
    abort_after_skips: int = 20
    spikes: SkipSpikes | None = None
    stall_seconds: float | None = 600.0
    initial: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "keep", "abort_after_skips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.stall_seconds is not None and self.stall_seconds <= 0:
            raise ValueError(f"stall_seconds: expected more than 0, or None, got {self.stall_seconds}")
        kept, saved = self.keep_every, self.save_every
        if kept is not None and (kept < 1 or not saved or kept % saved):
            raise ValueError(f"keep_every: expected a multiple of save_every={self.save_every}, got {self.keep_every}")


@dataclass(frozen=True)
class TrainResult:
    """The end of a run: its last step, the newest metrics by name, and the seconds it took.

    ``skipped`` counts updates that were not finite. ``parameters`` is the number of the model's parameter values,
    trained or not.
    """

    step: int
    metrics: dict[str, float]
    interrupted: bool
    seconds: float
    skipped: int
    parameters: int
