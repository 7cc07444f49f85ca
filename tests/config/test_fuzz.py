"""Any text gives a run or a ``UserError``, and no text can run code."""

import sys
from functools import cache
from pathlib import Path

import pytest
from example_runs import MAPS, PLAIN, Measure, Mixed, Train
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render

TREE = Path(__file__).parents[2]
TEXTS = [
    PLAIN,
    MAPS,
    "run = @Mixed\n" + MAPS,
    render(loads(PLAIN, Train)),
    *(path.read_text() for path in sorted(TREE.glob("configs/**/*.gin"))),
]
PIECES = [
    *"()[]{}@%=:,./\\'\"#\n\t -+$!?\0\x0c\r\ufeff\u2028é漢\ud800",
    *(
        "'''",
        "\\\n",
        "\n  ",
        "->",
        ":=",
        "=\n",
        "(,)",
        "...",
        "@f()",
        "%X",
        "@a/b",
        "f'{x}'",
        "b'x'",
        "0x",
        "1e999",
        "3j",
    ),
    *("import os\n", "from a import b\n", "include 'x.gin'\n", "include '/dev/zero'\n", "include '..'\n", "\nX = 1\n"),
    *(
        "task",
        "trainer.steps",
        "trainer",
        "run",
        "None",
        "= None\n",
        "= {}\n",
        "schedules",
        "schedules.a",
        "True",
        "lambda: 0",
        "__import__('os')",
        "x" * 300,
        "9" * 5000,
    ),
    *("(" * 300, "[" * 3000, "{" * 50, "-" * 500, "'a' " * 50, "%X, " * 50, "a." * 500),
]
WATCHED = ("os.system", "subprocess.Popen", "exec", "import", "os.exec", "os.posix_spawn", "socket.connect")
seen: list[str] = []
watching = False


def _watch(event: str, arguments: tuple) -> None:
    if watching and event in WATCHED:
        seen.append(f"{event} {arguments!r:.80}")


sys.addaudithook(_watch)


@cache
def warmed() -> None:
    """Trigger Python's own late imports before the audit hook watches."""
    loads(PLAIN, Train, sets=("name=x", "trainer.steps=3"))
    b"".decode("utf-8-sig")


def read(text: str, sets: tuple[str, ...] = (), root=Train | Measure | Mixed) -> None:
    warmed()
    global watching
    seen.clear()
    watching = True
    try:
        run = loads(text, root, sets=sets, include_folder=Path(__file__).parent)
    except UserError as error:
        lines = str(error).split("\n")
        assert all(line.isprintable() and line for line in lines)
        assert all(line.startswith(("<text>:", "--set ", "and ", str(TREE), "/dev")) for line in lines)
    else:
        assert loads(render(run), type(run)) == run
    finally:
        watching = False
    assert not seen


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_random_text_never_ends_in_a_traceback(text: str):
    read(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(st.characters(), max_size=3), max_size=12).map("".join))
def test_random_pieces_of_gin_never_end_in_a_traceback(text: str):
    read(text)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 10, 80])))
        text = text[:start] + draw(st.sampled_from(PIECES) | st.text(st.characters(), max_size=5)) + text[end:]
    return text


@settings(max_examples=150, deadline=None)
@given(mutated())
def test_damaged_configs_never_end_in_a_traceback(text: str):
    read(text)


def test_damaged_configs_read_as_the_real_runs_never_end_in_a_traceback():
    root = pytest.importorskip("dalle_jax.runs").Run

    @settings(max_examples=100, deadline=None)
    @given(mutated())
    def check(text: str):
        read(text, root=root)

    check()


NAMES = st.sampled_from(
    [
        "trainer.steps",
        "name",
        "schedules.a",
        "schedules",
        "needs.x.y",
        "task",
        "task.model.dtype",
        "trainer.levels",
        "run",
        "WIDTH",
        "a..b",
        "",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from(PIECES) | st.text(max_size=10)) | st.text(max_size=20), max_size=3))
def test_random_set_arguments_never_end_in_a_traceback(sets: list):
    arguments = tuple(one if isinstance(one, str) else "=".join(one) for one in sets)
    read(PLAIN, arguments)
    read(MAPS, ("run=Mixed", *arguments))


@pytest.mark.parametrize("count", [60, 199, 201, 900, 1500, 20_000])
@pytest.mark.parametrize(("left", "right"), ["()", "[]", "{}", ("(1,", ")"), ("[%A,", "]"), ("{1: ", "}"), ("-", "")])
def test_deep_nesting_never_ends_in_a_traceback(left: str, right: str, count: int):
    read(f"trainer.levels = {left * count}1{right * count}\n")
    read(PLAIN, (f"trainer.levels={left * count}1{right * count}",))


def test_the_audit_hook_sees_code_that_runs():
    global watching
    watching = True
    try:
        exec("pass")
    finally:
        watching = False
    assert seen
    seen.clear()
