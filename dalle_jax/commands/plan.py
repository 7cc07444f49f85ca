"""``plan CONFIG --topology v5p:8x8x8``: check that a training config fits a TPU slice, on a machine without TPUs.

The exit code is 0 if it fits and 1 if it does not. JAX reads the environment when it is imported, so all modules that
use it are imported after the command has set the environment.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dalle_jax.config.errors import UserError

if TYPE_CHECKING:
    from dalle_jax.plan.compile import Planned
    from dalle_jax.plan.report import PlanReport, Suggestions
    from dalle_jax.plan.sampler_report import SamplerReport
    from dalle_jax.plan.topologies import Topology
    from dalle_jax.runs import TrainRun
    from dalle_jax.tasks.task_config import TaskConfig

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
"""Settings of libtpu: it looks for no device, writes no log, and tolerates other processes that use libtpu.

The accelerator type only avoids a warning of libtpu. Programs are compiled for the slice of ``--topology``.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("config", help="a config file of a training stage, such as configs/runs/dalle1_12b.gin")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set one field of the config")
    parser.add_argument("--topology", required=True, metavar="v5p:8x8x8", help="v4, v5e, v5p, v6e or tpu7x and a shape")
    parser.add_argument("--slices", type=int, help="the number of slices (default: the config's mesh.slices)")
    parser.add_argument(
        "--sample",
        type=int,
        metavar="PROMPTS",
        help="plan the sampling of PROMPTS prompts instead of training",
    )
    parser.add_argument("--candidates", type=int, help="with --sample, the images of each prompt in a call (default 1)")
    parser.add_argument(
        "--mesh", metavar="AXIS=N,...", help="with --sample, the mesh, as in sample --mesh (default: the config's)"
    )
    parser.add_argument("--no-search", action="store_true", help="do not search for a batch and a slice that fit")
    parser.add_argument(
        "--quick", action="store_true", help="compile with XLA's least effort: sooner, with a peak that may differ"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the report. Return 0 if the config fits, else 1."""
    os.environ.update(ENVIRONMENT)
    from dalle_jax.plan.compile import compiler_effort
    from dalle_jax.plan.report import format_text
    from dalle_jax.plan.sampler_report import format_sampler

    for flag in ("candidates", "mesh"):
        if args.sample is None and (value := getattr(args, flag)) is not None:
            raise UserError(f"--{flag}: expected --sample with it, got --{flag} {value}")
    with compiler_effort(quick=args.quick):
        if args.sample is None:
            report = make_report(args)
            text, fits = format_text(report), report["fits"]
            print(json.dumps(report, indent=2) if args.json else text)
            return 0 if fits else 1
        sampled = make_sampler_report(args)
    print(json.dumps(sampled, indent=2) if args.json else format_sampler(sampled))
    return 0 if sampled["fits"] else 1


def make_sampler_report(args: argparse.Namespace) -> "SamplerReport":
    """Compile the sampling of a config's transformer for a TPU slice, and report its memory and speed."""
    from dalle_jax.commands.flags.mesh_flags import parse_mesh
    from dalle_jax.parallel.layout import Layout
    from dalle_jax.parallel.mesh import make_mesh
    from dalle_jax.plan import report as reports
    from dalle_jax.plan.planned_sampler import PlannedSampler, SampledBatch, largest_batch
    from dalle_jax.plan.sampler_report import sampler_report
    from dalle_jax.plan.topologies import parse
    from dalle_jax.runs import TrainRun, load_run

    config: TrainRun = load_run(args.config, TrainRun, args.set)
    mesh = config.mesh if args.mesh is None else parse_mesh(args.mesh)
    topology = parse(args.topology, mesh.slices if args.slices is None else args.slices)
    batch = SampledBatch(args.sample, 1 if args.candidates is None else args.candidates)
    for name, value in (("sample", batch.prompts), ("candidates", batch.candidates)):
        if value < 1:
            raise UserError(f"--{name}: expected 1 or more, got {value}")
    layout = Layout(make_mesh(replace(mesh, slices=topology.slices), topology.devices()), config.rules)
    planned, room = PlannedSampler(config.task.open_for_plan(), layout), reports.room(topology.chip)
    say(f"compiling the sampler of {batch.prompts} prompts with {batch.candidates} images each for {topology}")
    program = planned.compile(batch)
    largest = None if args.no_search else largest_batch(planned, batch, program, room, say)
    return sampler_report(planned, topology, batch, program, largest)


def make_report(args: argparse.Namespace) -> "PlanReport":
    """Compile the training step of a config for a TPU slice, and report its memory and time."""
    from dalle_jax.parallel.layout import Layout
    from dalle_jax.parallel.mesh import make_mesh
    from dalle_jax.plan import report as reports
    from dalle_jax.plan.compile import Planned
    from dalle_jax.plan.topologies import parse
    from dalle_jax.runs import TrainRun, load_run

    config: TrainRun = load_run(args.config, TrainRun, args.set)
    topology = parse(args.topology, config.mesh.slices if args.slices is None else args.slices)
    check_tokenizer(config.task)
    batch, chip = config.data.batch_size, topology.chip
    config = replace(config, mesh=replace(config.mesh, slices=topology.slices))
    layout = Layout(make_mesh(config.mesh, topology.devices()), config.rules)
    task = config.task.open_for_plan()
    planned = Planned(task, config.trainer, layout)
    possible = planned.state_bytes <= reports.room(chip)
    if possible:
        say(f"compiling the step of {args.config} for {topology}")
        step, start = planned.step(batch), planned.initialisation()
    else:
        say(f"the training state of {args.config} alone does not fit {topology}: nothing is compiled")
        step, start = planned.step_without_room(batch), None
    report = reports.step_report(planned, topology, batch, step, start)
    report["config"] = str(args.config)
    report["not_checked"] = unchecked(config.task)
    if not report["fits"] and not args.no_search:
        report.update(search(planned, config, topology))
    return report


def search(planned: "Planned", config: "TrainRun", topology: "Topology") -> "Suggestions":
    """Find the largest batch that fits on the slice, and the smallest larger slice that fits the batch."""
    from dalle_jax.plan import report as reports
    from dalle_jax.plan.search import largest_batch, smallest_slice

    room, batch = reports.room(topology.chip), config.data.batch_size
    say("it does not fit; searching for the largest batch that fits, and for the smallest slice")
    smaller = largest_batch(planned, batch, room, say)
    found = smallest_slice(planned.task, config.trainer, config.mesh, config.rules, topology, batch, room, say)
    return reports.suggestions(smaller, found)


def check_tokenizer(task: "TaskConfig") -> None:
    """Raise ``UserError`` if the config names an image tokenizer that is not trained yet."""
    from dalle_jax.tasks.align_text_images import AlignTextImages
    from dalle_jax.tasks.fine_tuning.align_conditions import AlignConditions
    from dalle_jax.tasks.fine_tuning.optimize_preferences import OptimizePreferences
    from dalle_jax.tasks.forecast_codes import ForecastCodes
    from dalle_jax.tasks.generate_codes import GenerateCodes
    from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
    from dalle_jax.tasks.reinforcement.reinforce import Reinforce

    fine_tuning = AlignConditions | OptimizePreferences | ForecastCodes | Reinforce
    task = task.generate if isinstance(task, fine_tuning) else task
    if not isinstance(task, AlignTextImages | GenerateCodes | GenerateFromConditions):
        return
    folder = task.image_tokenizer
    if folder is not None and not (Path(folder) / "model.gin").is_file():
        raise UserError(
            f"task.image_tokenizer: expected a trained image tokenizer, whose encoder is in the step, found none in "
            f"{folder}; train it first, or plan without it: --set task.image_tokenizer=None (for a transformer on "
            "precomputed codes also --set task.image_size=None --set task.model.code_width=0)"
        )


def unchecked(task: "TaskConfig") -> list[str]:
    """Return the checks of training that the plan leaves out, and the frozen CLIP that its step lacks."""
    from dalle_jax.tasks.align_readable_images import AlignReadableImages
    from dalle_jax.tasks.align_text_images import AlignTextImages
    from dalle_jax.tasks.denoise_codes import DenoiseCodes
    from dalle_jax.tasks.denoise_images import DenoiseImages
    from dalle_jax.tasks.fine_tuning.align_conditions import AlignConditions
    from dalle_jax.tasks.fine_tuning.optimize_preferences import OptimizePreferences
    from dalle_jax.tasks.forecast_codes import ForecastCodes
    from dalle_jax.tasks.generate_codes import GenerateCodes
    from dalle_jax.tasks.predict_embeddings import PredictEmbeddings
    from dalle_jax.tasks.reinforcement.reinforce import Reinforce
    from dalle_jax.tasks.reinforcement.reinforce_decoder import ReinforceDecoder

    notes = []
    captioned = task.align if isinstance(task, AlignReadableImages) else task
    fine_tuning = AlignConditions | OptimizePreferences | ForecastCodes | Reinforce
    captioned = task.generate if isinstance(task, fine_tuning) else captioned
    captioned = task.denoise if isinstance(task, ReinforceDecoder) else captioned
    if isinstance(captioned, AlignTextImages | DenoiseCodes | DenoiseImages | GenerateCodes | PredictEmbeddings):
        file = captioned.captions.file
        notes += [] if Path(file).is_file() else [f"the vocabulary against {file}, which does not exist yet"]
    if isinstance(captioned, DenoiseCodes | DenoiseImages) and captioned.clip is None and captioned.blank_clips < 1:
        notes.append("memory and FLOPs of the frozen CLIP, since task.clip is None")
    return notes


def say(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)
