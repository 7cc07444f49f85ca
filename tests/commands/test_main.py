"""The command line: its help, exit codes, and one clear line for each error that the user can fix."""

import argparse
import errno
import importlib
import os
import subprocess
import sys
from types import ModuleType

import pytest

from dalle_jax.__main__ import main
from dalle_jax.commands.table import COMMANDS, GROUPS, Command
from dalle_jax.config.errors import UserError


@pytest.fixture
def sample(monkeypatch):
    """Replace the command ``sample`` by one that raises the given error or returns the given exit code."""

    def put(result: BaseException | int) -> None:
        module = ModuleType("dalle_jax.commands.sample")

        def run(args):
            if isinstance(result, BaseException):
                raise result
            return result

        module.run = run
        module.add_arguments = lambda parser: parser.add_argument("--candidates", type=int)
        monkeypatch.setitem(sys.modules, "dalle_jax.commands.sample", module)

    return put


def complaint(capsys, argv: list[str]) -> str:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dalle-jax: error: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("dalle-jax: error: ").strip()


@pytest.mark.parametrize("platform", ["cuda", "gpuu"])
def test_a_platform_that_is_not_there_is_named_in_one_line(tmp_path, platform):
    command = [sys.executable, "-m", "dalle_jax", "train", "smoke/tokenizer.gin", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": platform}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "dalle-jax: error: JAX_PLATFORMS: expected platforms that JAX finds on this machine, or unset, "
        f"got {platform!r}"
    )
    assert "Traceback" not in done.stderr


def test_help_lists_every_command_and_exits_0(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {command.name} " in out and command.help in out for command in COMMANDS)


def test_help_lists_the_commands_of_each_group_below_its_heading(capsys):
    assert main(["--help"]) == 0
    paragraphs = capsys.readouterr().out.split("\n\n")[1:-1]
    listed = {lines[0]: [line.split()[0] for line in lines[1:]] for lines in map(str.splitlines, paragraphs)}
    assert listed == {f"{heading}:": [command.name for command in group] for heading, group in GROUPS.items()}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_flag_of_every_command_has_a_help_text(command: Command):
    parser = argparse.ArgumentParser(prog=command.name)
    importlib.import_module(command.module).add_arguments(parser)
    assert len(parser._actions) > 1
    assert not [action.dest for action in parser._actions if not (action.help or "").strip()]
    assert parser.format_help().startswith("usage:")  # raises for a stray % in a help text


def test_an_unknown_command_gets_the_most_similar_name(capsys):
    assert complaint(capsys, ["trian"]) == "expected a command, got 'trian'; did you mean train?"
    assert "the choices are demo, demo-unclip, demo-reinforced, train" in complaint(capsys, ["\n\x1b[31m"])
    assert complaint(capsys, []).startswith("expected a command: demo, demo-unclip, demo-reinforced, train")


def test_a_wrong_flag_is_a_one_line_error_with_the_most_similar_flag(capsys, sample):
    sample(0)
    assert complaint(capsys, ["sample", "--candidate", "3"]).startswith(
        "unknown argument --candidate; did you mean --candidates? (see dalle-jax sample --help)"
    )
    assert "invalid int value: 'x'" in complaint(capsys, ["sample", "--candidates", "x"])


def test_a_commands_own_exit_code_is_returned(sample):
    sample(1)
    assert main(["sample"]) == 1


def test_help_of_a_command_exits_0(capsys, sample):
    sample(1)
    assert main(["sample", "--help"]) == 0
    assert "--candidates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("expected a folder, got a file"), "expected a folder, got a file"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "m\nx"), r"m\nx: No such file or directory"),
        (ValueError("INTERNAL: x\nwriting d: No space left on device [y]"), "writing d: No space left on device [y]"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line_and_exit_code_2(capsys, sample, error, line):
    sample(error)
    assert complaint(capsys, ["sample"]) == line


def test_a_disk_error_is_found_as_the_cause_of_a_librarys_error(capsys, sample):
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = OSError(errno.EROFS, "Read-only file system", "out")
    sample(wrapped)
    assert complaint(capsys, ["sample"]) == "out: Read-only file system"


def test_an_unexpected_error_keeps_its_traceback(sample):
    sample(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["sample"])


def test_each_line_of_a_config_error_is_printed_as_an_error_line(capsys, sample):
    sample(UserError("a.gin:1: x\na.gin:2: y"))
    assert main(["sample"]) == 2
    assert capsys.readouterr().err == "dalle-jax: error: a.gin:1: x\ndalle-jax: error: a.gin:2: y\n"


def test_ctrl_c_exits_130_without_a_traceback(capsys, sample):
    sample(KeyboardInterrupt())
    assert main(["sample"]) == 130
    assert capsys.readouterr().err.strip() == "dalle-jax: interrupted"


def run(command: str) -> subprocess.CompletedProcess:
    command = command.replace("PROGRAM", f"{sys.executable} -m dalle_jax")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100)


def test_a_full_disk_behind_standard_output_is_a_one_line_error():
    done = run("PROGRAM --help > /dev/full")
    assert (done.returncode, done.stderr) == (2, "dalle-jax: error: No space left on device\n")


def test_a_closed_output_pipe_is_not_an_error():
    done = run("PROGRAM --help | true; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141)
    assert done.stderr == ""


def test_the_config_command_prints_text_that_parses_to_the_same_run(capsys, tmp_path):
    runs = pytest.importorskip("dalle_jax.runs")
    from dalle_jax.config.bind import load, loads

    path = tmp_path / "text.gin"
    path.write_text(
        "run = @TextTokenizerRun\nsource = @Scenes\nsource.size = 32\nsource.levels = (1,)\nsource.split = 'train'\n"
        "source.count = 8\nsource.seed = 0\nvocabulary = 64\ncaptions = 10\n"
    )
    assert main(["config", str(path), "--set", "captions=20"]) == 0
    run = loads(capsys.readouterr().out, runs.Run)
    assert run == load(path, runs.Run, ("captions=20",))
    assert run.captions == 20
    assert complaint(capsys, ["config", str(path), "--set", "caption=20"]).endswith("did you mean captions?")
    assert "no such file" in complaint(capsys, ["config", str(tmp_path / "nothing.gin")])


def test_the_config_command_names_the_command_for_a_field_of_a_stage(capsys):
    line = complaint(capsys, ["config", "smoke/demo.gin", "--set", "stages.clip.trainer.steps=2"])
    assert "expected a field of smoke/demo.gin" in line
    assert "`config FILE --set trainer.steps=2`, where FILE is the value of stages.clip" in line


@pytest.mark.parametrize(
    ("command", "config", "expected", "right"),
    [
        (["train"], "runs/your_data/all.gin", "`train` (@TrainRun), got one of `demo` (@DemoRun)", "demo"),
        (["demo"], "runs/your_data/clip.gin", "`demo` (@DemoRun), got one of `train` (@TrainRun)", "train"),
        (["inspect"], "runs/your_data/text.gin", "`inspect` (@InspectRun), got one of `text-token", "text-tokenizer"),
        (["encode"], "runs/your_data/evaluation.gin", "`encode` (@EncodeRun), got one of `evaluate` (", "evaluate"),
        (["demo-unclip"], "runs/your_data/all.gin", "`demo-unclip` (@UnclipDemoRun), got one of `demo`", "demo"),
    ],
)
def test_a_config_of_another_command_is_answered_with_that_command(command, config, expected, right, capsys, tmp_path):
    assert main([*command, config, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and expected in said and f"run it with `python -m dalle_jax {right} " in said
