"""Every training config under configs/runs takes a step of the real trainer, with a small network.

Only sizes and the lengths of warm-ups are changed. Attention, norms, dtype, remat, optimizer, schedule, averaging and
accumulation are those of the file. Files that differ only in sizes and machines share one compiled run.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.config.bind import load
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.runs import Run, TrainRun
from dalle_jax.train.compiled import CompiledTask

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in (CONFIGS / "runs").glob("*.gin"))
CODES = {"codebook_size": 16, "grid": (3, 4), "width": 16}
PRIOR = {"embed_width": 8, "text_width": 6, "text_length": 4, "width": 16, "depth": 2, "heads": 2}
SMALL = {
    "DalleConfig": CODES | {"text_vocab": 16, "text_length": 4, "depth": 5, "heads": 2, "head_size": 8, "kernel": 3},
    "DalleBartConfig": CODES
    | {"text_vocab": 16, "text_length": 4, "extra_codes": 1, "start_code": 16, "init_std": 0.02}
    | {f"{side}_layers": 2 for side in ("encoder", "decoder")}
    | {f"{side}_heads": 2 for side in ("encoder", "decoder")}
    | {f"{side}_hidden": 24 for side in ("encoder", "decoder")},
    "LlamaGenConfig": CODES | {"depth": 2, "heads": 2, "multiple_of": 8},
    "ByClass": {"classes": 10},
    "ByCaption": {"length": 3, "width": 6},
    "ClipConfig": {"image_size": 8, "patch": 4, "vocab_size": 16, "text_length": 4, "embed_width": 8},
    "TowerConfig": {"width": 16, "layers": 2, "heads": 2},
    "TokenizeImagesDvae": {"image_size": 16},
    "DvaeConfig": {"width": 8, "code_width": 16, "codebook_size": 16, "blocks": 1},
    "TokenizeImagesGan": {"image_size": 16},
    "VqganConfig": {"width": 32, "multipliers": (1, 1), "blocks": 1, "attention_levels": (1,), "latent_width": 16}
    | {"code_width": 8, "codebook_size": 16},
    "DiscriminatorConfig": {"width": 8, "layers": 2},
    "PredictEmbeddings": {"text_length": 4},
    "DiffusionPriorConfig": PRIOR,
    "AutoregressivePriorConfig": PRIOR | {"components": 3, "buckets": 8, "dot_products": 4},
    "ConstantRate": {"warmup": 100},
}
"""The sizes that replace those of each config dataclass. Add a new model, or its test runs at full size."""
LARGEST = 400_000


def read(file: Path):
    """Load the run of a file, or return None for a file that other files include."""
    try:
        return load(CONFIGS / file, Run)
    except UserError as error:
        if all("is missing;" in line or "is not chosen;" in line for line in str(error).splitlines()):
            return None
        raise


def small(config):
    """Return the config with the sizes of ``SMALL``, in all nested configs."""
    changes = {
        field.name: small(value)
        for field in dataclasses.fields(config)
        if dataclasses.is_dataclass(value := getattr(config, field.name))
    }
    return dataclasses.replace(config, **(changes | SMALL.get(type(config).__name__, {})))


TRAINED = [file for file in FILES if isinstance(read(file), TrainRun)]


OWN_RECIPES = {
    "unclip": "tests/tasks/test_unclip_configs.py counts their parameters and traces small ones",
    "unclip_scenes": "tests/tasks/test_unclip_configs.py traces small ones",
    "scenes": "its three stages are those of configs/demo at other sizes, which tests/commands/test_demo.py runs",
    "scenes_32": "its stages are those of configs/demo on six levels, and docs/results.md has what they gave",
    "your_data": "tests/commands/test_your_data_page.py runs the whole of it on a few images",
    "your_data_128": "your_data at other sizes",
    "real": "the stages of your_data on a set of styles, which docs/results.md was measured on",
    "real_128": "real at other sizes",
    "signs": "its stages are those of configs/demo on signs; docs/results.md has its image tokenizer",
}
"""Folders of training configs that are not of published models, and the tests that run them."""
SHARED = {"dalle1", "dalle_bart", "llamagen"}
"""Files that several published configs include, and that are not runs."""
OTHER_RUNS = {
    "scenes": "a DemoRun over the folder of that name",
    "unclip_scenes": "an UnclipDemoRun over the folder of that name",
}


def test_the_published_models_are_among_the_configs():
    published = {"dalle1_12b", "dalle1_5b6", "dalle1_2b8", "dalle_mini", "dalle_mega", "clip_vit_l14", "dvae"}
    published |= {"vqgan_f16", "llamagen_c2i_b", "llamagen_t2i_xl", "unclip_prior", "unclip_prior_autoregressive"}
    assert published <= {one.stem for one in TRAINED}


def test_every_config_is_trained_here_or_listed_with_a_reason():
    listed = {one.stem for one in TRAINED} | SHARED | OTHER_RUNS.keys()
    assert {one.stem for one in FILES} == listed
    assert all(read(CONFIGS / "runs" / f"{name}.gin") is None for name in SHARED)
    texts = [(CONFIGS / file).read_text() for file in TRAINED]
    assert all(any(f"include 'runs/{name}.gin'" in text for text in texts) for name in SHARED)
    inside = [path.relative_to(CONFIGS) for path in sorted((CONFIGS / "runs").glob("*/**/*.gin"))]
    trained = {file.parts[1] for file in inside if isinstance(read(file), TrainRun)}
    assert trained == OWN_RECIPES.keys()


@functools.cache
def prepared(file: Path):
    """Return task, trainer, batch size, and the text that equal runs share."""
    run = small(read(file))
    run = dataclasses.replace(run, mesh=Mesh(1, 1, 1), rules=Rules())
    rows = 2 * run.trainer.accumulate
    task = run.task.open_for_plan()
    same = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=rows))
    same = dataclasses.replace(same, trainer=dataclasses.replace(same.trainer, steps=10))
    return task, same.trainer, rows, render(same)


def batch_of(task, rows: int):
    random = np.random.default_rng(0)
    batch = {}
    for name, spec in task.batch_spec(rows).items():
        if np.issubdtype(spec.dtype, np.floating):
            batch[name] = random.normal(size=spec.shape).astype(spec.dtype)
        else:
            batch[name] = random.integers(0, 255 if spec.dtype == np.uint8 else 10, spec.shape).astype(spec.dtype)
    return batch


@functools.cache
def stepped(text: str, file: Path):
    """Return the state after a step, and the loss."""
    del text
    task, trainer, rows, _ = prepared(file)
    layout = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
    compiled = CompiledTask(task, trainer, layout)
    assert sum(leaf.size for leaf in jax.tree.leaves(compiled.state_spec.abstract.learned.params)) < LARGEST
    state, sums = compiled.step(
        compiled.state_spec.init_sharded(layout, 0), None, layout.put_batch(batch_of(task, rows))
    )
    return state, float(sums["loss"][0]) / float(sums["loss"][1])


@functools.cache
def first_like(text: str) -> Path:
    """Return the first file with the same run."""
    return next(file for file in TRAINED if prepared(file)[3] == text)


SLOW_TO_COMPILE = {"dvae", "vqgan_f16", "clip_vit_l14", "dalle1_1b"}
"""Their steps compile for seconds. The fast suite trains the first three models by configs/smoke, and DALL·E by 12b."""


@pytest.mark.parametrize(
    "file",
    [pytest.param(one, marks=[pytest.mark.slow] if one.stem in SLOW_TO_COMPILE else []) for one in TRAINED],
    ids=lambda file: file.stem,
)
def test_a_config_takes_a_step(file):
    text = prepared(file)[3]
    state, loss = stepped(text, first_like(text))
    assert np.isfinite(loss)
    assert abs(loss) > 0.01  # the dVAE's may be negative
    assert int(state.counted.step) == 1
    for name, value in state.learned.params.items():
        assert jnp.isfinite(value).all(), name
    moments = [leaf for leaf in jax.tree.leaves(state.learned.optimizers) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    # LlamaGen's head starts at zero, so the layers before it have no gradient in the first step.
    assert [leaf for leaf in moments if leaf.ndim and float(jnp.abs(leaf).max()) > 0]
