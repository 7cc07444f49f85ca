"""A process that samples in bulk and can be killed, as one of a run: ``bulk_child.py OUT PAUSE TOGETHER PROMPTS...``.

TOGETHER is "together" if all processes share one mesh of their devices, else "apart".
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dalle_jax import __main__ as command
from dalle_jax.folder_lock import locked
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.pipelines.bulk import run_job as module
from dalle_jax.pipelines.bulk.device_engine import DeviceEngine, DrawnPrompt
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.pipelines.bulk.prompt_files import PromptFiles
from dalle_jax.pipelines.request import RequestOptions
from tests.small_bulk import small_pipeline

DEFAULTS = RequestOptions(candidates=6, keep=2, guidance=2.0)


class SlowEngine(DeviceEngine):
    """An engine that takes ``pause`` seconds longer for each prompt."""

    pause = 0.0

    def draw(self, requests) -> Iterator[DrawnPrompt]:
        for one in super().draw(requests):
            time.sleep(self.pause)
            yield one


def run(argv: Sequence[str]) -> int:
    """Do what the command ``sample`` does with these arguments."""
    out, SlowEngine.pause, together, prompts = Path(argv[0]), float(argv[1]), argv[2], argv[3:]
    module.DeviceEngine = SlowEngine
    hosts.join()
    with failures.shared():
        files = PromptFiles(prompts, DEFAULTS)
        survey = files.survey()
        job = BulkJob.of(survey, {"transformer": "small"}, {}, shard_prompts=2)
        layout = Layout(make_mesh(Mesh(data=-1)), Rules()) if together == "together" else None
        with module.interrupted_by_sigterm(), locked(out, "sample"):
            line = module.run_job(lambda: small_pipeline(layout=layout), files, survey, job, out, layout is not None)
    print(line)
    return 0


if __name__ == "__main__":
    command._run = run
    command.run_process()
