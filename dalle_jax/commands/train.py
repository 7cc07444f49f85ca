"""``train CONFIG``: one stage; goes on from the newest checkpoint of the run folder, if there is one."""

import argparse
from pathlib import Path

from dalle_jax import storage
from dalle_jax.config.bind import load
from dalle_jax.config.render import render
from dalle_jax.folder_lock import locked
from dalle_jax.parallel import failures, hosts
from dalle_jax.parallel.agreement import require_same_config
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import make_mesh
from dalle_jax.runs import TrainRun
from dalle_jax.storage import Place
from dalle_jax.tasks.precomputed_codes import matched
from dalle_jax.train.loop import train
from dalle_jax.train.monitor.profiler import Steps
from dalle_jax.train.trainer import TrainResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("config", help="a config file, such as configs/demo/tokenizer.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")
    parser.add_argument("--out", type=storage.reachable, help="the run folder (default: runs/ and the config's name)")
    parser.add_argument(
        "--profile",
        metavar="FIRST:LAST",
        help="trace the steps after step FIRST up to step LAST into the run folder's profile/; SIGUSR1 traces 5 steps",
    )


def run(args: argparse.Namespace) -> int:
    """Trains to the end of the config's steps, or until it is told to stop, and saves."""
    profile = None if args.profile is None else Steps.parse(args.profile)
    config: TrainRun = load(args.config, TrainRun, args.set)
    hosts.join()
    with failures.shared():
        require_same_config(render(config, per_host=False))
        train_stage(config, args.out or Path("runs") / Path(args.config).stem, profile)
    return 0


def train_stage(config: TrainRun, out: Place, profile: Steps | None = None, command: str = "train") -> TrainResult:
    """Train one stage into ``out``, locked by ``command`` meanwhile; ``profile`` are steps to trace."""
    layout = Layout(make_mesh(config.mesh), config.rules)
    with locked(out, command):
        data = config.data.open(out)
        task = matched(config.task, data.manifest)
        return train(task, data, config.trainer, layout, out, render(config), profile)
