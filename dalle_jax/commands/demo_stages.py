"""The configs of a demo's stages, read with the changes that ``--set stages.NAME.PATH=VALUE`` makes to them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.config.sources import find
from dalle_jax.runs import DEMO_STAGES as NAMES
from dalle_jax.runs import DemoRun, EvaluateRun, TextTokenizerRun, TrainRun, load_run
from dalle_jax.storage import Place

StageRun: TypeAlias = TextTokenizerRun | TrainRun | EvaluateRun
"""The config of one stage."""

PREFIX = "stages."
TRAINED = ("tokenizer", "clip", "transformer")
"""The names of the stages that train a model, in order."""
FROM_THE_DEMO = dict.fromkeys(("clip", "transformer"), ("task.captions.file", "task.image_tokenizer"))
"""By stage, the fields that the demo sets itself, to the text tokenizer and image tokenizer of its earlier stages."""
FROM_ITS_DATA = {"text": ("source", "held_out"), "evaluation": ("data",), **dict.fromkeys(TRAINED, ("data",))}
"""By stage, the fields that the field ``data`` of the demo's config replaces, if it is set."""


@dataclass(frozen=True)
class DemoStages:
    """The config of a demo and the configs of its stages: text tokenizer, trained models by name, and evaluation."""

    config: DemoRun
    text: TextTokenizerRun
    trained: dict[str, TrainRun]
    evaluation: EvaluateRun


def read_stages(path: str, sets: Sequence[str], out: Place) -> DemoStages:
    """Read the config of the demo and of each stage. Raises one UserError that lists all problems."""
    within = [one for one in sets if is_within_a_stage(one)]
    config: DemoRun = load_run(path, DemoRun, [one for one in sets if one not in within])
    by_stage, problems = _by_stage(within, config)
    read: dict[str, Any] = {}
    for name, root in (("text", TextTokenizerRun), *((one, TrainRun) for one in TRAINED), ("evaluation", EvaluateRun)):
        if not os.path.isfile(find(config.stages[name])):
            problems.append(
                f"{PREFIX}{name}: expected a config file, got '{config.stages[name]}'; "
                f"{PREFIX}{name}.PATH=VALUE sets a field of the stage"
            )
            continue
        fixed = []
        if name in FROM_THE_DEMO:
            places = (out / "text.model", out / "tokenizer")
            fixed = [f"{field}='{place}'" for field, place in zip(FROM_THE_DEMO[name], places, strict=True)]
        if name in TRAINED and config.data is not None:
            fixed.append("data.images=None")  # the demo replaces the stage's own, which need not fit the task
        try:
            run: TextTokenizerRun | TrainRun | EvaluateRun = load_run(
                config.stages[name], root, by_stage[name] + fixed, f"{PREFIX}{name}."
            )
            read[name] = _with_data(run, config)
        except (UserError, ValueError) as error:
            problems += [str(error) if isinstance(error, UserError) else f"{PREFIX}{name}: {error}"]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return DemoStages(config, read["text"], {name: read[name] for name in TRAINED}, read["evaluation"])


def is_within_a_stage(setting: str) -> bool:
    """Return True for ``stages.NAME.PATH=VALUE``, False for ``stages.NAME=FILE`` and for other fields of the demo."""
    path = setting.partition("=")[0].strip()
    return path.startswith(PREFIX) and path.count(".") > 1


def _with_data(run: StageRun, config: DemoRun) -> StageRun:
    """Replace a stage's data by the demo's own, if it has any. Raises ValueError if they do not fit together."""
    if config.data is None:
        return run
    if isinstance(run, TextTokenizerRun):
        return replace(run, source=config.data.source, held_out=config.data.held_out)
    if isinstance(run, TrainRun):
        return replace(run, data=config.data.with_batch_size(run.data.batch_size))
    return replace(run, data=config.data)


def _by_stage(sets: Sequence[str], config: DemoRun) -> tuple[dict[str, list[str]], list[str]]:
    """Group ``--set`` arguments by stage; return them, and a problem for each that no stage can take."""
    found: dict[str, list[str]] = {name: [] for name in NAMES}
    problems = []
    for one in sets:
        words = one.partition("=")[0].strip().split(".")
        name, field = words[1], ".".join(words[2:])
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            problems.append(f"--set {one}: expected stages.NAME.PATH=VALUE with NAME of {', '.join(NAMES)}{hint}")
        elif _covers(FROM_THE_DEMO.get(name, ()), field):
            problems.append(f"--set {one}: expected a different field; the demo sets {field} itself")
        elif config.data is not None and field != "data.batch_size" and _covers(FROM_ITS_DATA[name], field):
            problems.append(f"--set {one}: expected data.PATH=VALUE; the demo uses its own data for every stage")
        else:
            found[name].append(one)
    return found, problems


def _covers(fields: Sequence[str], name: str) -> bool:
    """Return True if ``name`` is one of the fields or lies below one."""
    return any(name == one or name.startswith(f"{one}.") for one in fields)
