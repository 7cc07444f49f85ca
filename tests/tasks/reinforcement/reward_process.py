"""One process of several that trains by rewards: ``reward_process.py OUT STEPS``. The environment names the process."""

import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dalle_jax.parallel import failures, hosts

hosts.join()  # before the first computation, which the imported tests make

from dalle_jax.parallel.layout import Layout  # noqa: E402
from dalle_jax.parallel.mesh import Mesh, make_mesh  # noqa: E402
from dalle_jax.parallel.rules import Rules  # noqa: E402
from dalle_jax.tasks.reinforcement.named_prompts import PromptList  # noqa: E402
from dalle_jax.tasks.reinforcement.reinforce import Reinforcement  # noqa: E402
from dalle_jax.train.loop import train  # noqa: E402
from dalle_jax.train.optim.schedules import ConstantRate  # noqa: E402
from dalle_jax.train.task import RolloutInputs  # noqa: E402
from dalle_jax.train.trainer import Trainer  # noqa: E402
from tests.tasks.reinforcement.test_reinforce import TEXT, task_of  # noqa: E402


class NumberedPrompts(Reinforcement):
    """The task whose prompts are the numbers of rows of ``TEXT``, so that it needs no text tokenizer."""

    def rollout_inputs(self, examples, seeds):
        return RolloutInputs(tuple(examples["caption"]), {"prompt": TEXT[[int(one) for one in examples["caption"]]]})

    def model_files(self):
        return {}

    def cut_captions(self):
        return 0, 0, ""


if __name__ == "__main__":
    plain = task_of(group=4, trained_groups=2, updates=2, entropy=0.01)
    task = NumberedPrompts(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    trainer = Trainer(steps=int(sys.argv[2]), schedule=ConstantRate(1e-2), clip_norm=1.0, log_every=2, save_every=2)
    with failures.shared():
        layout = Layout(make_mesh(Mesh(data=2)), Rules())
        result = train(task, PromptList("0123", "prompts", batch_size=4), trainer, layout, sys.argv[1], "")
    print(f"step={result.step}")
