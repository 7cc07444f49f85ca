"""A training of a small image tokenizer on tars of images, with checkpoints, evaluation and images."""

from pathlib import Path

from tests.data.damaged import shard

STEPS = 20
TRAINING = """
data.source = @WebDataset
data.source.files = ('{tars}',)
data.evaluation = @HeldOut
data.evaluation.count = 6
data.images = @Images
data.images.size = 8
data.batch_size = 4
data.workers = 1
task = @TokenizeImages
task.image_size = 8
task.model.downsample = 4
task.model.stem = 'patch'
task.model.width = 8
task.model.blocks = 1
task.model.codebook_size = 16
task.model.code_width = 4
trainer.steps = 20
trainer.schedule = @CosineRate
trainer.schedule.rate = 1e-2
trainer.schedule.warmup = 4
trainer.ema = @WarmedEma
trainer.ema.decay = 0.9
trainer.clip_norm = 1.0
trainer.log_every = 2
trainer.save_every = 2
trainer.evaluate_every = 4
trainer.images_every = 10
mesh.data = -1
"""
"""Its config; ``tars`` is the folder that ``write_tars`` makes."""


def write_tars(folder: Path) -> Path:
    """Write 40 images in two tars, one of them damaged; return the folder."""
    folder.mkdir()
    shard(folder / "0.tar", 0, 20)
    shard(folder / "1.tar", 20, 20, {25: "not an image"})
    return folder
