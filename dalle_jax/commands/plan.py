"""``plan CONFIG --topology v5p:8x8x8``: whether a training config fits a TPU slice, found without one.

Exit code 0 where it fits, 1 where it does not. jax must be told that there is no TPU to look for before it is imported,
so everything that imports it is imported when the command runs.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dalle_jax.config.errors import UserError

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
"""No device is looked for, no log written, and others may use libtpu meanwhile (else its lock file ends this one). The
type is that of no device: without one libtpu warns that it has found none; the slice that is compiled for is named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("config", help="a config file of a training stage, such as configs/runs/dalle1_12b.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="the last word on one field")
    parser.add_argument("--topology", required=True, metavar="v5p:8x8x8", help="v4, v5e, v5p, v6e or tpu7x and a shape")
    parser.add_argument("--slices", type=int, help="how many such slices (default: the config's mesh.slices)")
    parser.add_argument("--sample", type=int, metavar="PROMPTS", help="compile the sampler too, for so many prompts")
    parser.add_argument("--no-search", action="store_true", help="where it does not fit, do not look for what would")
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the report; the exit code says whether the config fits."""
    os.environ.update(ENVIRONMENT)
    report = make_report(args)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        from dalle_jax.plan.report import words

        print(words(report))
    return 0 if report["fits"] and report.get("sampler", {}).get("fits", True) else 1


def make_report(args: argparse.Namespace) -> dict[str, Any]:
    """The report of the config on the slice."""
    from dalle_jax.config.bind import load
    from dalle_jax.parallel.layout import Layout
    from dalle_jax.parallel.mesh import make_mesh
    from dalle_jax.plan import report as reports
    from dalle_jax.plan.compile import Planned
    from dalle_jax.plan.topologies import parse
    from dalle_jax.runs import TrainRun

    config: TrainRun = load(args.config, TrainRun, args.set)
    topology = parse(args.topology, config.mesh.slices if args.slices is None else args.slices)
    check_tokenizer(config.task)
    if args.sample is not None and args.sample < 1:
        raise UserError(f"--sample: expected 1 or more prompts, got {args.sample}")
    batch, chip = config.data.batch_size, topology.chip
    config = replace(config, mesh=replace(config.mesh, slices=topology.slices))
    layout = Layout(make_mesh(config.mesh, topology.devices()), config.rules)
    planned = Planned(config.task, config.trainer, layout)
    possible = planned.state_bytes <= reports.room(chip)
    if possible:
        say(f"compiling the step of {args.config} for {topology}")
        step, start = planned.step(batch), planned.initialisation()
    else:
        say(f"the state of {args.config} alone is too much for {topology}: nothing is compiled for it")
        step, start = planned.step_without_room(batch), None
    report = {"config": str(args.config)} | reports.step_report(planned, topology, batch, step, start)
    if args.sample is not None and possible:
        say(f"compiling the sampler of {args.sample} prompts")
        report["sampler"] = reports.sampler_report(args.sample, planned.sampler(args.sample), chip)
    report["not_checked"] = unchecked(config.task)
    if not report["fits"] and not args.no_search:
        report |= search(planned, config, topology)
    return report


def search(planned: Any, config: Any, topology: Any) -> dict[str, Any]:
    """What would fit in place of what does not."""
    from dalle_jax.plan import report as reports
    from dalle_jax.plan.search import largest_batch, smallest_slice

    room, batch = reports.room(topology.chip), config.data.batch_size
    say("it does not fit; looking for the largest batch that does, and for the smallest slice")
    smaller = largest_batch(planned, batch, room, say)
    found = smallest_slice(config.task, config.trainer, config.mesh, config.rules, topology, batch, room, say)
    return reports.cures(smaller, found)


def check_tokenizer(task: Any) -> None:
    """Raises UserError where the config names an image tokenizer that is not there yet."""
    folder = getattr(task, "image_tokenizer", None)
    if folder is not None and not (Path(folder) / "model.gin").is_file():
        raise UserError(
            f"task.image_tokenizer: {folder} holds no trained tokenizer, whose encoder is in the step; train it "
            "first, or plan without it: --set task.image_tokenizer=None (a transformer then takes codes that were "
            "written ahead: --set task.image_size=None --set task.model.code_width=0 as well)"
        )


def unchecked(task: Any) -> list[str]:
    """What training would check and a plan cannot."""
    captions = getattr(task, "captions", None)
    if captions is None or Path(captions.file).is_file():
        return []
    return [f"the vocabulary against {captions.file}, which is not there yet"]


def say(text: str) -> None:
    """Progress, beside the report."""
    print(text, file=sys.stderr, flush=True)
