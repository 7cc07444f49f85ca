import os

import pytest
from example_runs import PLAIN, Measure, Train

from dalle_jax.config.bind import load, loads
from dalle_jax.config.errors import MAX_LETTERS, UserError
from dalle_jax.config.problems import Location, Problems
from dalle_jax.config.syntax import MAX_ADJACENT_STRINGS, read

LINES = PLAIN.count("\n")


def errors(text: str, *sets: str, root=Train) -> list[str]:
    with pytest.raises(UserError) as caught:
        loads(text, root, "x.gin", sets)
    return str(caught.value).splitlines()


def only(line: str) -> str:
    """Return the only error of the plain text with one more line, and check that it names that line."""
    (error,) = errors(PLAIN + line + "\n")
    assert error.startswith(f"x.gin:{LINES + 1}: ")
    return error.removeprefix(f"x.gin:{LINES + 1}: ")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("trainer.stepz = 3", "trainer.stepz: no such name; did you mean trainer.steps?"),
        ("task.modle.width = 3", "task.modle.width: no such name; did you mean task.model.width?"),
        ("model.width = 3", "model.width: no such name; did you mean task.model.width?"),
        ("zzz.qqq = 3", "zzz.qqq: no such name; Train has task, trainer, mesh, wide, name"),
        ("trainer.steps = 1.5", "trainer.steps: expected an int, got 1.5"),
        ("trainer.steps = True", "trainer.steps: expected an int, got True"),
        ("trainer.steps = 'ten'", "trainer.steps: expected an int, got 'ten'"),
        ("trainer.steps = None", "trainer.steps: expected an int, got None"),
        ("trainer.steps = 9223372036854775808", "trainer.steps: expected an int, got 9223372036854775808"),
        ("trainer.resume = 1", "trainer.resume: expected True or False, got 1"),
        ("trainer.limit = 'x'", "trainer.limit: expected an int or None, got 'x'"),
        ("trainer.levels = 3", "trainer.levels: expected (an int, ...), got 3; write (3,)"),
        ("trainer.levels = (1, 'a')", "trainer.levels: expected (an int, ...), got (1, 'a')"),
        ("trainer.optimizer.betas = (1,)", "trainer.optimizer.betas: expected (a float, a float), got (1,)"),
        ("trainer.optimizer.betas = (1, 1e999)", "trainer.optimizer.betas: expected (a float, a float), got (1, inf)"),
        ("trainer.optimizer.clip = 3j", "trainer.optimizer.clip: expected a float or None, got 3j"),
        ("name = b'x'", "name: expected a str, got b'x'"),
        ("name = {'a': 1}", "name: expected a str, got {'a': 1}"),
        ("name = @Adam", "name: expected a str, got @Adam"),
        (
            "task.model.dtype = 'bfloat61'",
            "task.model.dtype: expected 'float32' or 'bfloat16', got 'bfloat61'; did you mean bfloat16?",
        ),
        ("trainer.ema = @Emma", "trainer.ema: expected @Ema or None, got @Emma; did you mean Ema?"),
        ("trainer.optimizer = @adam", "trainer.optimizer: expected @Adam or @Lion, got @adam; did you mean Adam?"),
        ("trainer.ema.decay = 0.1", "trainer.ema.decay: trainer.ema is None and has no fields; choose a variant with"),
        ("task.model = 3", "task.model: expected @Model, got 3; set its fields one by one, as task.model.width"),
        ("trainer.steps.x = 3", "trainer.steps.x: trainer.steps is an int and has no fields"),
        ("task.model.heads = 3", "task.model (Model): width 64 is not a multiple of heads 3"),
        ("task.model.heads = 0", "task.model (Model): "),
        ("trainer.steps = %STEPZ", "%STEPZ is not defined"),
        ("trainer.steps = %WIDHT", "%WIDHT is not defined; did you mean WIDTH?"),
        ("UNUSED = 3", "the macro UNUSED is not used"),
        ("LOOP = %LOOP", "macros refer to each other in a circle: %LOOP -> %LOOP"),
        ("import os", "`import os`: a config is data and cannot import"),
        ("from os import path", "`from os import path`: a config is data and cannot import"),
        ("trainer.optimizer = @Adam()", "@Adam() is a call, and a config cannot call anything; write @Adam"),
        ("trainer.levels = (1, @f())", "@f() is a call"),
        ("trainer.optimizer = @a/Adam", "@a/Adam: expected one word after @"),
        ("trainer.optimizer = @a.Adam", "@a.Adam: expected one word after @"),
        ("trainer.steps = %a/B", "%a/B: expected one word after %"),
        ("a/trainer.steps = 3", "scopes (a/) are not supported"),
        ("include 'nowhere.gin'", "include 'nowhere.gin': this text is not a file"),
        ("name = cats", "cannot be read: cats is not a value; write a string as 'cats'"),
        ("name = ", "cannot be read: expected a value, got nothing"),
        ("name 3", "cannot be read: expected name = value"),
        ("name == 3", "cannot be read: "),
        ("trainer .steps = 3", "cannot be read: a name consists of words joined by dots"),
        ("trainer.levels = (1,", "cannot be read: "),
        ("name = 'open", "cannot be read: "),
        ("name = 'a' 3", "cannot be read: "),
        ("trainer.levels = " + "[" * 60 + "]" * 60, "expected brackets nested at most 50 deep, got more"),
        ("trainer.levels = " + "[" * 5000 + "]" * 5000, "cannot be read: "),
        ("trainer.steps = " + "9" * 5000, "cannot be read: "),
        ("trainer.steps = 0x" + "f" * 5000, "trainer.steps: expected an int, got a number of thousands of digits"),
        ("run = @Measure", "run: expected @Train, got @Measure"),
        ("run.name = 'x'", "run.name: paths do not begin with `run.`"),
    ],
)
def test_an_error_names_its_line_and_the_expected_and_actual_value(line: str, error: str):
    assert only(line).startswith(error)


def test_a_null_character_is_an_error():
    assert errors("\n\nname = 'a\0b'\n")[0] == "x.gin:3: expected a text file, got a null character"


def test_a_missing_field_is_reported_with_its_type_at_the_last_line_about_its_slot():
    assert errors("task = @Tokenize\ntask.model.heads = 2\ntrainer.steps = 3\n") == [
        "x.gin:2: task.model.width is missing; expected task.model.width = an int",
        "x.gin:2: task.codes is missing; expected task.codes = an int",
        "x.gin:3: trainer.optimizer is not chosen; expected trainer.optimizer = @Adam or @Lion",
    ]


def test_all_errors_of_a_run_are_reported_together_in_order():
    text = """task = @Generat
task.folder = 3

$ %
trainer.steps = 'x'
trainer.stops = 3
import os
name = x
mesh.data = 'a'
wide.tensor = %NONE
"""
    assert errors(text, "trainer.resume=maybe", "nonsense", root=Train | Measure) == [
        "x.gin:1: task: expected @Tokenize or @Generate, got @Generat; did you mean Generate?",
        "x.gin:2: task.folder = 3 fits no variant of task, which is @Tokenize or @Generate",
        "x.gin:4: cannot be read: expected name = value, in `$ %`",
        "x.gin:5: trainer.steps: expected an int, got 'x'",
        "x.gin:6: trainer.optimizer is not chosen; expected trainer.optimizer = @Adam or @Lion"
        " (unless the text that could not be read sets it)",
        "x.gin:6: trainer.stops: no such name; did you mean trainer.steps?",
        "x.gin:7: `import os`: a config is data and cannot import; remove the line",
        "x.gin:8: cannot be read: x is not a value; write a string as 'x', a macro as %x and a variant as @x, "
        "in `name = x`",
        "x.gin:9: mesh.data: expected an int, got 'a'",
        "x.gin:10: %NONE is not defined (unless the text that could not be read sets it)",
        "--set nonsense: expected name=value, as in --set trainer.steps=10",
        "--set trainer.resume=maybe: trainer.resume: expected True or False, got maybe",
    ]


def test_a_binding_that_a_later_one_overrides_is_still_checked():
    assert only("trainer.steps = 'x'\ntrainer.steps = 3").startswith("trainer.steps: expected an int")


def test_a_binding_that_fits_neither_the_old_nor_the_new_variant_is_an_error():
    text = "trainer.optimizer.bettas = (0.8, 0.9)\ntrainer.optimizer = @Lion"
    assert only(text).startswith("trainer.optimizer.bettas: no such name")
    assert only("trainer.optimizer.beta = 0.3").startswith("trainer.optimizer.beta: no such name")


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("trainer.steps=ten", "trainer.steps: expected an int, got ten"),
        ("trainer.steps=", "trainer.steps: expected an int, got nothing"),
        ("trainer.steps", "expected name=value, as in --set trainer.steps=10"),
        ("=3", "expected name=value"),
        ("a b=3", "expected name=value"),
        ("trainer.stepz=3", "trainer.stepz: no such name; did you mean trainer.steps?"),
        ("trainer.resume=true", "trainer.resume: expected True or False, got true; did you mean True?"),
        ("trainer.optimizer=Lionn", "trainer.optimizer: expected @Adam or @Lion, got Lionn; did you mean Lion?"),
        ("trainer.optimizer=@Lion()", "trainer.optimizer: expected @Adam or @Lion, got @Lion(); did you mean Lion?"),
        ("trainer.steps=3\nname='x'", "trainer.steps: expected an int, got 3\\nname='x'"),
        ("trainer.steps=%NO", "%NO is not defined"),
        ("WIDHT=3", "the macro WIDHT is not used; did you mean WIDTH?"),
    ],
)
def test_an_error_of_set_names_the_argument(argument: str, error: str):
    (found,) = errors(PLAIN, argument)
    shown = argument.replace("\n", "\\n")
    assert found.startswith(f"--set {shown}: {error}")


def test_a_config_of_another_command_gets_a_hint_to_name_its_run():
    assert (
        "(read as the config of a Train; one of a different kind begins with run = @Name)"
        in errors("folder = 'x'\n" + PLAIN, root=Train | Measure)[0]
    )


def write(folder, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.gin").write_text(text)


def file_errors(path) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(path, Train)
    return str(caught.value).splitlines()


def test_a_missing_include_names_the_line_the_folders_and_a_similar_file(tmp_path):
    write(tmp_path, a="\ninclude 'bass.gin'\n" + PLAIN, base="")
    (error,) = file_errors(tmp_path / "a.gin")
    assert error.startswith(f"{tmp_path}/a.gin:2: include 'bass.gin': no such file (looked in {tmp_path}")
    assert error.endswith("; did you mean base.gin?")


def test_a_circle_of_includes_is_shown(tmp_path):
    write(tmp_path, a=PLAIN + "include 'b.gin'\n", b="include 'c.gin'\n", c="\ninclude 'a.gin'\n")
    (error,) = file_errors(tmp_path / "a.gin")
    circle = "a.gin -> b.gin -> c.gin -> a.gin"
    assert error == f"{tmp_path}/c.gin:2: include 'a.gin': files include each other in a circle: {circle}"


def test_includes_that_grow_exponentially_are_stopped(tmp_path):
    files = {f"f{i}": f"include 'f{i + 1}.gin'\ninclude 'f{i + 1}.gin'\n" for i in range(30)}
    write(tmp_path, **files, f30=PLAIN)
    assert any("expected at most 100 included files" in line for line in file_errors(tmp_path / "f0.gin"))


def test_macros_that_grow_exponentially_are_stopped():
    powers = "".join(f"M{i} = (%M{i + 1}, %M{i + 1})\n" for i in range(40)) + "M40 = 1\ntrainer.levels = %M0\n"
    assert any("elements" in line or "deep" in line for line in errors(PLAIN + powers))
    chain = "".join(f"M{i} = %M{i + 1}\n" for i in range(3000)) + "M3000 = 1\ntrainer.steps = %M0\n"
    assert any("nested at most" in line for line in errors(PLAIN + chain))


def test_an_error_in_an_included_file_names_that_file(tmp_path):
    write(tmp_path, a="include 'b.gin'\n" + PLAIN, b="trainer.steps = 1\ntrainer.stepz = 3\n")
    assert file_errors(tmp_path / "a.gin")[0].startswith(f"{tmp_path}/b.gin:2: trainer.stepz: no such name")


def test_a_file_that_is_not_a_config_is_named(tmp_path):
    (tmp_path / "latin.gin").write_bytes(PLAIN.encode() + "name = 'café'\n".encode("latin-1"))
    assert file_errors(tmp_path / "latin.gin")[0].startswith(f"{tmp_path}/latin.gin:{LINES + 1}: byte ")
    (tmp_path / "big.gin").write_text("#" * 200_000)
    assert "a text file of at most" in file_errors(tmp_path / "big.gin")[0]
    assert "no such file; did you mean big.gin?" in file_errors(tmp_path / "bigg.gin")[0]
    assert "got a folder" in file_errors(tmp_path)[0]
    os.mkfifo(tmp_path / "pipe.gin")
    assert "expected a text file" in file_errors(tmp_path / "pipe.gin")[0]
    assert file_errors(tmp_path / ("x" * 300))
    assert file_errors("a\0b")
    write(tmp_path, a="include 'a\\0b'\n" + PLAIN, b="include '" + "x" * 300 + "'\n" + PLAIN)
    assert "no such file" in file_errors(tmp_path / "a.gin")[0]
    assert "no such file" in file_errors(tmp_path / "b.gin")[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_an_unreadable_file_is_named(tmp_path):
    write(tmp_path, a=PLAIN)
    (tmp_path / "a.gin").chmod(0)
    assert "Permission denied" in file_errors(tmp_path / "a.gin")[0]


@pytest.mark.parametrize("between", [" ", "\n", " # a comment\n"])
def test_very_many_strings_in_a_row_are_refused_and_some_are_read(between):
    strings = ["'a'"] * (MAX_ADJACENT_STRINGS + 1)
    problems = Problems()
    (found,) = read(f"x = ({between.join(strings[1:])})", "x.gin", problems)
    assert found.value == "a" * MAX_ADJACENT_STRINGS and not problems.found
    list(read(f"x = ({between.join(strings)})", "x.gin", problems))
    assert f"at most {MAX_ADJACENT_STRINGS} strings in a row" in problems.lines()[0]


def test_half_a_surrogate_pair_is_refused_in_files_and_arguments():
    problems = Problems()
    list(read(r"x = '\ud800'", "x.gin", problems))
    assert "half of a surrogate pair" in problems.lines()[0]
    (error,) = errors(PLAIN, "task.name=caf\udce9")
    assert "expected text in UTF-8" in error


def test_a_line_about_a_name_of_any_length_is_short_and_ends_with_the_advice():
    problems = Problems()
    problems.add(Location("x.gin", 3), f"{'model.width' * 10_000}: no such name; did you mean model.width?")
    with pytest.raises(UserError) as caught:
        problems.raise_if_any()
    line = str(caught.value)
    assert line.startswith("x.gin:3: model.width") and line.endswith("did you mean model.width?")
    assert MAX_LETTERS <= len(line) < MAX_LETTERS + 10
    assert str(UserError(f"{'a' * 5000}\nb")).split("\n")[1] == "b"
