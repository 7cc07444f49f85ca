import json

import pyarrow
import pyarrow.parquet
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.bulk.prompt_files import MAX_BAD_ROWS, PromptFiles
from dalle_jax.pipelines.request import Request, RequestOptions

DEFAULTS = RequestOptions(candidates=8, keep=2, guidance=2.0, seed=5)
ROWS = [
    {"prompt": "a red circle"},
    {"prompt": " a blue ring ", "seed": 3, "candidates": 20, "keep": 4, "top_k": 7},
    {"prompt": "a ring", "temperature": 0.5, "top_p": 0.9, "guidance": 1, "guidance_end": 2, "url": "somewhere"},
    {"prompt": "a star", "negative_prompt": "a square", "seed": None},
]
EXPECTED = [
    Request("a red circle", DEFAULTS),
    Request("a blue ring", RequestOptions(candidates=20, keep=4, top_k=7, guidance=2.0, seed=3)),
    Request(
        "a ring",
        RequestOptions(candidates=8, keep=2, seed=5, temperature=0.5, top_p=0.9, guidance=1.0, guidance_end=2.0),
    ),
    Request("a star", DEFAULTS, negative_prompt="a square"),
]


def jsonl(path, rows):
    path.write_text("\n\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def parquet(path, rows, **columns):
    names = dict.fromkeys(name for row in rows for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names} | columns)
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return str(path)


def read(*names, defaults=DEFAULTS, **options):
    return [one.request for one in PromptFiles(names, defaults, **options).requests(lambda _: True)]


def errors(*names, check=None) -> list[str]:
    with pytest.raises(UserError) as caught:
        PromptFiles(names, DEFAULTS).survey(check)
    return str(caught.value).splitlines()


def test_rows_of_jsonl_and_parquet_have_options_of_their_own(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", ROWS), parquet(tmp_path / "a.parquet", ROWS)]
    assert [read(file) for file in files] == [EXPECTED, EXPECTED]
    first, second = (PromptFiles([file], DEFAULTS).survey() for file in files)
    assert first == second  # the hash too
    assert (first.prompts, first.images, first.kept, first.most_kept) == (4, 44, 10, 4)
    assert (first.guided, first.negative, first.ignored) == (True, True, ("url",))


def test_prompt_lists_of_published_benchmarks_are_read_as_they_are(tmp_path):
    """GenEval 2 has a JSON object a line, T2I-CompBench++ a prompt a line, DPG-Bench a file without a last newline."""
    geneval = {"atom_count": 3, "vqa_list": [["How many rings are there?", "two"]], "skills": ["count", "object"]}
    rows = jsonl(tmp_path / "geneval2_data.jsonl", [{"prompt": "two red rings", **geneval}])
    (tmp_path / "color_val.txt").write_text("a green bench and a blue bowl\na blue bench and a green bowl")
    (tmp_path / "prompts").mkdir()
    for name, prompt in (("partiprompts9", "A long text. It goes on, and on."), ("1", "A red truck on a beach.")):
        (tmp_path / "prompts" / f"{name}.txt").write_text(prompt)
    assert [one.prompt for one in read(rows)] == ["two red rings"]
    assert PromptFiles([rows], DEFAULTS).survey().ignored == ("atom_count", "skills", "vqa_list")
    assert [one.prompt for one in read(str(tmp_path / "color_val.txt"))][1] == "a blue bench and a green bowl"
    found = [one.prompt for one in read(str(tmp_path / "prompts"))]  # in the order of the files' names
    assert found == ["A red truck on a beach.", "A long text. It goes on, and on."]


def test_lines_of_text_are_prompts_without_blank_lines_and_marks_of_windows(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa red circle\r\n\r\n  a blue ring")
    assert [one.prompt for one in read(str(tmp_path / "a.txt"))] == ["a red circle", "a blue ring"]


def test_several_files_are_read_in_the_order_given_and_numbered_through(tmp_path):
    (tmp_path / "z.txt").write_text("one\ntwo\n")
    files = PromptFiles([str(tmp_path / "z.txt"), jsonl(tmp_path / "a.jsonl", ROWS[:2])], DEFAULTS)
    assert files.survey().prompts == 4
    found = [(one.number, one.request.prompt) for one in files.requests(lambda number: number in (1, 3))]
    assert found == [(1, "two"), (3, "a blue ring")]


def test_whole_numbers_may_be_floats_and_missing_ones_not_a_number_as_tables_write_them(tmp_path):
    rows = [{"prompt": "a", "seed": 3.0}, {"prompt": "b", "seed": float("nan")}]
    assert [one.options.seed for one in read(parquet(tmp_path / "a.parquet", rows))] == [3, 5]


def test_all_bad_rows_of_all_files_are_named_with_file_row_and_field(tmp_path):
    first = jsonl(
        tmp_path / "a.jsonl",
        [{"prompt": "fine"}, {"prompt": "a", "guidance": -1}, "{broken", {"seed": 2}, {"prompt": 3}, "[1]"],
    )
    second = parquet(tmp_path / "b.parquet", [{"prompt": "a", "keep": 1}, {"prompt": "b", "keep": 99}])
    lines = errors(first, second)
    assert lines[0] == f"{first}: row 3: guidance: expected 0 or more (1 is off), got -1.0"
    assert lines[1].startswith(f"{first}: row 5: expected a JSON object in one line, got '{{broken'")
    assert lines[2] == f"{first}: row 7: prompt: expected a text, got none"
    assert lines[3] == f"{first}: row 9: prompt: expected a text, got 3"
    assert lines[4] == f"{first}: row 11: expected a JSON object, got '[1]'"
    assert lines[5:] == [f"{second}: row 2: keep: expected between 1 and candidates (8), got 99"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"prompt": "a", "seed": True}, "seed: expected a number, got True"),
        ({"prompt": "a", "top_p": "0.5"}, "top_p: expected a number, got '0.5'"),
        ({"prompt": " "}, "prompt: expected a text, got ' '"),
        ({"prompt": "a", "guidence": 2}, "guidence: expected prompt, negative_prompt, seed"),
        ({"prompt": "a", "negative_prompt": "b", "guidance": 1}, "negative_prompt: expected a guidance other than 1"),
    ],
)
def test_a_wrong_field_is_named_with_the_expected_value(tmp_path, row, says):
    file = jsonl(tmp_path / "a.jsonl", [row])
    (line,) = errors(file)
    assert line.startswith(f"{file}: row 1: {says}")


def test_only_the_first_bad_rows_of_a_file_are_listed(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "seed": -1}] * (MAX_BAD_ROWS + 7))
    lines = errors(file)
    assert len(lines) == MAX_BAD_ROWS + 1 and lines[-1] == f"{file}: and 7 more bad rows"


def test_a_file_without_prompts_and_bytes_that_are_not_text_are_errors(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    (tmp_path / "b.txt").write_bytes(b"fine\n\xff\xfe\n")
    (tmp_path / "c.parquet").write_bytes(b"no table")
    lines = errors(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    assert "expected a prompt in each line or row, got only blank ones" in lines[0]
    assert (
        lines[1]
        == f"{tmp_path / 'b.txt'}: row 2: expected text in UTF-8, got an invalid byte at position 0 of the line"
    )
    assert "expected a parquet file" in errors(str(tmp_path / "c.parquet"))[0]
    with pytest.raises(UserError, match=r"found nothing for .*none\.txt"):
        PromptFiles([str(tmp_path / "none.txt")], DEFAULTS)


def test_a_check_of_the_model_names_the_rows_that_it_refuses(tmp_path):
    def check(request: Request) -> None:
        if request.options.top_k:
            raise UserError("top_k: expected its default")

    file = jsonl(tmp_path / "a.jsonl", ROWS)
    assert errors(file, check=check) == [f"{file}: row 3: top_k: expected its default"]


def test_a_change_of_a_prompt_an_option_or_the_order_changes_the_hash(tmp_path):
    changed = [ROWS, ROWS[::-1], [*ROWS[:3], {"prompt": "a stars"}], [{"prompt": "a red circle", "seed": 5}, *ROWS[1:]]]
    hashes = {
        PromptFiles([jsonl(tmp_path / f"{number}.jsonl", rows)], DEFAULTS).survey().sha256
        for number, rows in enumerate(changed)
    }
    assert len(hashes) == len(changed)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
        ('{"prompt": "a", "seed": 1' + "0" * 400 + "}", "seed: expected a number below 2^63"),
        ('{"prompt": 1' + "0" * 4000 + "}", "prompt: expected a text, got a huge number"),
        ('{"prompt": "a", ' + ", ".join(f'"x{i}": 1' for i in range(200)) + "}", "at most 100 fields, got 201"),
    ],
    ids=["surrogate", "nested", "huge seed", "huge prompt", "fields"],
)
def test_rows_that_cannot_be_read_or_written_are_named(tmp_path, row, says):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a"}\n' + row + "\n")
    (line,) = errors(str(path))
    assert line.startswith(f"{path}: row 2: ") and says in line and len(line) < 400


def test_a_line_longer_than_any_prompt_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" + b"x" * (2**20 + 1))
    assert "row 2: expected a line of at most 1,048,576 bytes" in errors(str(path))[0]


def test_dates_in_columns_of_no_use_do_not_stop_a_prompts_file(tmp_path):
    path = tmp_path / "a.parquet"
    far = pyarrow.array([2**62, 1], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "taken": far}), path)
    assert [one.prompt for one in read(str(path))] == ["a", "b"]
    broken = bytearray(path.read_bytes())
    broken[4:40] = bytes(36)
    path.write_bytes(broken)
    assert "expected a parquet file of prompts" in errors(str(path))[0]


def test_a_prompt_that_cannot_be_written_is_refused_before_anything_is_drawn():
    broken = b"caf\xe9".decode(errors="surrogateescape")
    for fields in ({"prompt": broken}, {"prompt": 3, "caption": broken}):
        with pytest.raises(UserError, match="expected text in UTF-8, got"):
            Request(**fields)
