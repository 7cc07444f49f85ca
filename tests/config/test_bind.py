from dataclasses import dataclass
from typing import Any

import pytest
from example_runs import PLAIN, Adam, Constant, Cosine, Ema, Generate, Lion, Measure, Mesh, Model, Tokenize, Train

from dalle_jax.config.bind import load, loads


def train(text: str = PLAIN, *sets: str) -> Train:
    return loads(text, Train, sets=sets)


def test_a_config_sets_variants_and_leaves_and_keeps_defaults():
    run = train()
    assert run.task == Generate(model=Model(width=64), folder="runs/tokenizer", captions=())
    assert run.trainer.optimizer == Adam(schedule=Cosine(rate=1e-3, warmup=10))
    assert (run.trainer.steps, run.trainer.resume, run.mesh, run.name) == (100, True, Mesh(), "run")


def test_leaves_may_come_before_the_choice_of_their_variant():
    lines = [line for line in PLAIN.splitlines() if line]
    assert train("\n".join(reversed(lines))) == train()


def test_the_last_binding_wins_and_set_arguments_come_after_the_file():
    assert train(PLAIN + "trainer.steps = 7\n").trainer.steps == 7
    assert train(PLAIN + "trainer.steps = 7\n", "trainer.steps=8", "trainer.steps = 9").trainer.steps == 9


def test_every_use_of_a_macro_has_its_last_value_even_from_a_set_argument():
    assert train(PLAIN + "WIDTH = 32\n").task.model.width == 32
    assert train(PLAIN, "WIDTH=16").task.model.width == 16
    assert train(PLAIN, "trainer.levels=(1, %WIDTH)").trainer.levels == (1, 64)


def test_a_macro_may_be_a_variant_or_an_element_of_a_tuple():
    text = PLAIN.replace("@Cosine", "%SCHEDULE") + "SCHEDULE = @Constant\nA = 1\nB = (%A, 2)\ntrainer.levels = %B\n"
    run = train(text)
    assert run.trainer.optimizer.schedule == Constant(rate=1e-3)
    assert run.trainer.levels == (1, 2)


def test_a_block_equals_its_bindings_written_out():
    block = PLAIN.replace("task.model.width = %WIDTH", "task.model:\n  width = %WIDTH\n  heads = 4")
    assert train(block) == train(PLAIN + "task.model.heads = 4\n")


def test_a_new_variant_keeps_bindings_that_fit_it_and_ignores_those_of_the_old_variant():
    text = PLAIN + "trainer.optimizer.betas = (0.8, 0.9)\ntrainer.optimizer.clip = 0.5\ntrainer.optimizer = @Lion\n"
    optimizer = train(text).trainer.optimizer
    assert optimizer == Lion(schedule=Cosine(rate=1e-3), beta=0.9, clip=None)
    assert train(PLAIN + "task.folder = 'a'\n", "task=@Tokenize", "task.codes=8").task == Tokenize(Model(64), 8)


def test_an_optional_slot_is_chosen_and_set_to_none_again():
    text = PLAIN + "trainer.ema = @Ema\ntrainer.ema.decay = 0.5\n"
    assert train(text).trainer.ema == Ema(0.5)
    assert train(text, "trainer.ema=None").trainer.ema is None


def test_a_default_object_keeps_its_unbound_values():
    assert train(PLAIN + "wide.data = 8\n").wide == Mesh(data=8, tensor=4)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name=cats", "cats"),
        ("name='cats'", "cats"),
        ("name=/a/b-c.gin", "/a/b-c.gin"),
        ("name=123", "123"),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("name=two words", "two words"),
        ("name=@me", "@me"),
        ("name=a#b", "a#b"),
    ],
)
def test_a_str_field_takes_the_text_as_typed_on_the_command_line(argument: str, value: str):
    assert train(PLAIN, argument).name == value


def test_variants_and_literals_are_accepted_with_and_without_at_sign_and_quotes():
    for argument in ("trainer.optimizer.schedule=Constant", "trainer.optimizer.schedule=@Constant"):
        assert train(PLAIN, argument).trainer.optimizer.schedule == Constant(1e-3)
    for argument in ("task.model.dtype=bfloat16", "task.model.dtype='bfloat16'"):
        assert train(PLAIN, argument).task.model.dtype == "bfloat16"


def test_an_int_becomes_a_float_and_a_list_becomes_a_tuple():
    run = train(PLAIN + "trainer.optimizer.schedule.rate = 1\ntrainer.levels = [1, 2]\n")
    assert type(run.trainer.optimizer.schedule.rate) is float
    assert run.trainer.levels == (1, 2)


def test_a_config_chooses_its_run_and_the_first_of_the_union_is_the_default():
    assert loads("run = @Measure\nfolder = 'x'\n", Train | Measure) == Measure("x")
    assert loads(PLAIN, Train | Measure) == train()
    assert loads("run = @Train\n" + PLAIN, Train) == train()
    assert loads(PLAIN, Train | Measure, sets=("run=Measure", "folder=x")) == Measure("x")


def test_includes_are_searched_beside_the_file_then_in_the_configs_folder(tmp_path):
    root = tmp_path / "configs"
    (root / "runs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "runs" / "base.gin").write_text(PLAIN)
    (root / "models" / "wide.gin").write_text("WIDTH = 256\n")
    (root / "runs" / "mine.gin").write_text("include 'base.gin'\ninclude 'models/wide.gin'\ntrainer.steps = 3\n")
    run: Any = load(root / "runs" / "mine.gin", Train, ("name=x",))
    assert (run.task.model.width, run.trainer.steps, run.name) == (256, 3, "x")
    assert loads("include 'base.gin'\n", Train, include_folder=root / "runs") == train()


def test_a_byte_order_mark_and_windows_line_endings_are_accepted(tmp_path):
    (tmp_path / "a.gin").write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    assert load(tmp_path / "a.gin", Train) == train()


def test_a_field_type_that_no_config_can_hold_is_a_type_error():
    @dataclass(frozen=True)
    class Odd:
        names: set[int]

    with pytest.raises(TypeError, match=r"Odd\.names: expected a type of config field"):
        loads("", Odd)
