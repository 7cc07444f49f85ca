"""``train CONFIG``: train one stage, from the newest checkpoint of the run folder if there is one."""

import argparse
from dataclasses import replace
from pathlib import Path

from dalle_jax import storage
from dalle_jax.commands.measuring.run_suites import suites_of
from dalle_jax.config.render import render
from dalle_jax.folder_lock import locked
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.agreement import require_same_config
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.runs import TrainRun, load_run
from dalle_jax.storage import Place
from dalle_jax.train.loop import train
from dalle_jax.train.monitor.profiler import Steps
from dalle_jax.train.trainer import TrainResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("config", help="a config file, such as configs/demo/tokenizer.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument("--out", type=storage.reachable, help="the run folder (default: runs/ and the config's name)")
    parser.add_argument(
        "--profile",
        metavar="FIRST:LAST",
        help="trace the steps after step FIRST up to step LAST into the run folder's profile/; SIGUSR1 traces 5 steps",
    )


def run(args: argparse.Namespace) -> int:
    """Train to the last step of the config or until a signal asks to stop, and save a checkpoint."""
    profile = None if args.profile is None else Steps.parse(args.profile)
    config: TrainRun = load_run(args.config, TrainRun, args.set)
    hosts.join()
    with failures.shared():
        require_same_config(render(config, per_host=False))
        train_stage(config, args.out or Path("runs") / Path(args.config).stem, profile)
    return 0


def train_stage(config: TrainRun, out: Place, profile: Steps | None = None, command: str = "train") -> TrainResult:
    """Train one stage into the folder ``out``, which is locked for ``command`` meanwhile.

    ``profile`` names the steps to trace.

    The run folder gets the resolved config as ``config.gin``, with the folders of the networks that the task loaded.
    """
    layout = Layout(make_mesh(config.mesh), config.rules)
    with locked(out, command):
        data = config.data.open(out)
        task = config.task.open(layout, data.manifest)
        resolved = replace(config, task=task.config)
        return train(task, data, config.trainer, layout, out, render(resolved), profile, suites_of(config, layout))
