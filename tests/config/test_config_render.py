import math

import pytest
from example_runs import (
    PLAIN,
    Adam,
    Constant,
    Cosine,
    Ema,
    Generate,
    Lion,
    Measure,
    Mesh,
    Model,
    Tokenize,
    Train,
    Trainer,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.bind import loads
from dalle_jax.config.render import render

INTS = st.integers(-(2**63) + 1, 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MODELS = st.builds(
    lambda heads, times, dtype: Model(width=heads * times, heads=heads, dtype=dtype),
    st.integers(1, 64),
    st.integers(0, 64),
    st.sampled_from(["float32", "bfloat16"]),
)
SCHEDULES = st.builds(Constant, FLOATS) | st.builds(Cosine, FLOATS, INTS)
ADAMS = st.builds(Adam, SCHEDULES, st.tuples(FLOATS, FLOATS), st.none() | FLOATS)
LIONS = st.builds(Lion, SCHEDULES, FLOATS, st.none() | INTS)
TASKS = st.builds(Tokenize, MODELS, INTS) | st.builds(Generate, MODELS, TEXTS, st.lists(TEXTS, max_size=3).map(tuple))
TRAINERS = st.builds(
    Trainer,
    INTS,
    ADAMS | LIONS,
    st.none() | st.builds(Ema, FLOATS),
    st.booleans(),
    st.lists(INTS, max_size=4).map(tuple),
    st.none() | INTS,
)
RUNS = st.builds(Train, TASKS, TRAINERS, st.builds(Mesh, INTS, INTS), st.builds(Mesh, INTS, INTS), TEXTS)


@settings(max_examples=80, deadline=None)
@given(RUNS)
def test_rendered_text_parses_back_to_an_equal_run(run: Train):
    text = render(run)
    assert loads(text, Train) == run
    assert loads(text, Measure | Train) == run
    assert render(loads(text, Train)) == text


def test_the_text_has_every_field_slot_by_slot():
    assert render(loads(PLAIN, Train)).splitlines() == [
        "run = @Train",
        "name = 'run'",
        "",
        "task = @Generate",
        "task.folder = 'runs/tokenizer'",
        "task.captions = ()",
        "",
        "task.model.width = 64",
        "task.model.heads = 2",
        "task.model.dtype = 'float32'",
        "",
        "trainer.steps = 100",
        "trainer.ema = None",
        "trainer.resume = True",
        "trainer.levels = (1,)",
        "trainer.limit = None",
        "",
        "trainer.optimizer = @Adam",
        "trainer.optimizer.betas = (0.9, 0.999)",
        "trainer.optimizer.clip = 1.0",
        "",
        "trainer.optimizer.schedule = @Cosine",
        "trainer.optimizer.schedule.rate = 0.001",
        "trainer.optimizer.schedule.warmup = 10",
        "",
        "mesh.data = -1",
        "mesh.tensor = 1",
        "",
        "wide.data = 2",
        "wide.tensor = 4",
    ]


def test_a_value_without_a_text_is_refused():
    with pytest.raises(ValueError, match="gin text can express, got nan"):
        render(Constant(rate=math.nan))
    with pytest.raises(TypeError, match="expected a bool, int, float, str, tuple or None, got"):
        render(Measure(folder=b"x"))
