"""Bounds of reading files that others wrote."""

import hashlib
import json
import os
from dataclasses import asdict

import pytest

from dalle_jax.commands.stage_record import read_record
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples import index
from dalle_jax.data.examples.record_stats import _earlier_reports
from dalle_jax.data.precomputed.manifest import read_manifest
from dalle_jax.folder_lock import Holder
from dalle_jax.pipelines.bulk.job import BulkJob
from dalle_jax.train.output.writers import read_lines, truncate
from dalle_jax.untrusted import (
    FREE_BYTES,
    Budget,
    OverBudget,
    check_text,
    open_file,
    parse_json,
    parse_object,
    read_file,
    read_text_file,
)


def test_a_budget_is_three_times_the_file_beyond_a_free_part():
    budget = Budget(1000, steps=2)
    budget.spend(FREE_BYTES + 2000)
    with pytest.raises(OverBudget, match="memory"):
        budget.spend(1, 0)
    budget = Budget(0, steps=2)
    budget.spend(0, 2)
    with pytest.raises(OverBudget, match="more than 2 steps"):
        budget.spend(0)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_pipes_folders_and_devices_are_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in (open_file, read_file, read_text_file):
        with pytest.raises(UserError, match=f"x: expected a file, got {kind}"):
            read(path)


def test_files_are_read_up_to_their_limit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_file(path, 6) == b"\xef\xbb\xbfabc"
    assert read_text_file(path) == "abc"
    with pytest.raises(UserError, match="at most 5 bytes, got 6"):
        read_file(path, 5)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="UTF-8, got another encoding at byte 3"):
        read_text_file(path)


def test_json_is_parsed_within_its_budget():
    assert parse_json(b'{"a": [1, "\\ud83d\\ude00"]}') == {"a": [1, "\U0001f600"]}
    assert parse_json('{"a": 1}'.encode("utf-16")) == {"a": 1}
    for content in (
        b"[" + b"[]," * 800_000 + b"1]",
        b"[" + b"{}," * 300_000 + b"1]",
        b'["' + b'","' * 1_300_000 + b'"]',
    ):
        with pytest.raises(OverBudget, match="bytes of memory"):
            parse_json(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"\\uDC00": 1}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "can't decode"),
        (b'"\xed\xa0\x80"', "can't decode|surrogate"),
        (b"1" * 5000, "digits"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
    ],
    ids=range(8),
)
def test_broken_json_is_a_value_error(content, says):
    with pytest.raises(ValueError, match=says):
        parse_json(content)


def test_names_that_come_twice_are_refused_where_they_must_be_unique():
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="one name twice"):
        parse_json(b'{"a": 1, "a": 2}', unique_names=True)


def test_text_with_half_a_surrogate_pair_is_refused():
    check_text("café 😀", "prompt")
    with pytest.raises(UserError, match=r"prompt: expected text in UTF-8, got '\\udce9' at character 3"):
        check_text(b"caf\xe9".decode(errors="surrogateescape"), "prompt")


DEEP = b"[" * 100_000
"""JSON whose brackets are nested too deeply for Python's parser, which raises a RecursionError."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (DEEP, "nested too deeply"),
        (b'{"a": ' + DEEP, "nested too deeply"),
        (b"[1]", "a JSON object, got list"),
        (b"\xff", "can't decode"),
        (b"", "Expecting value"),
    ],
)
def test_a_json_object_is_parsed_or_a_value_error(content, words):
    assert parse_object(b'{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match=words):
        parse_object(content)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("manifest.json", lambda path: read_manifest(path.parent)),
        ("stages.json", lambda path: read_record(path.parent)),
        ("bulk.json", BulkJob.read),
    ],
)
def test_files_of_a_run_with_nested_brackets_are_refused_in_one_line(tmp_path, name, read):
    (tmp_path / name).write_bytes(DEEP)
    with pytest.raises(UserError, match=f"{name}: expected "):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("metrics.jsonl", read_lines),
        ("lock", lambda path: Holder.parse(path.read_bytes())),
        ("records.json", lambda path: _earlier_reports(path.parent)),
    ],
)
def test_files_of_a_run_with_nested_brackets_count_as_damaged(tmp_path, name, read):
    (tmp_path / name).write_bytes(DEEP)
    assert not read(tmp_path / name)


def test_damaged_lines_of_metrics_are_dropped_when_a_run_resumes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 2, "a": 1.0}\n{"step": 3, "\xff": 1}\n{"a": 1}\n{"step": "4"}\n{"step": 9}\n{"step": 4, "a"'
    )
    truncate(path, 4)
    assert path.read_bytes() == b'{"step": 2, "a": 1.0}\n'


@pytest.mark.parametrize("change", [{"since": 1e300}, {"pid": "../1"}, {"renewals": None}, {"since": "today"}])
def test_a_lock_with_impossible_values_counts_as_unreadable(change):
    whole = Holder.this_process("train")
    assert Holder.parse(whole.render()) == whole
    assert Holder.parse(json.dumps(asdict(whole) | change).encode()) is None


@pytest.mark.parametrize(
    "head", [b'{"records": 10000000000, "bad_read": 0, "report": {}}', b'{"records": 3}', b'{"records": "3"}', b"[]"]
)
def test_an_index_of_usable_records_with_a_right_checksum_is_not_believed(head):
    body = head + b"\n\xe0"
    with pytest.raises(ValueError, match="expected"):
        index._from_bytes(index._MAGIC + hashlib.sha256(body).digest() + body, None)
