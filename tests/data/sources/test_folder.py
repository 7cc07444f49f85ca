import json
import os
import pickle
import shutil

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.sources.folder import Folder


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def opened(folder, **fields):
    return Folder(path=str(folder), **fields).open()


def all_of(records):
    return {one.key: (one.image, one.captions, dict(one.metadata)) for one in records}


def faults(records):
    return sorted((problem.key, problem.kind) for problem in records.problems)


def test_images_with_texts_next_to_them_are_records_sorted_by_path(tmp_path):
    files = {"b/x.jpg": "1", "b/x.txt": "a dog\n\none dog\n", "b/x.json": '{"width": 3, "caption": "j"}'}
    files |= {"a.b.PNG": "2", "a.b.txt": "a cat", "x.jpg": "3", "x.txt": "an x", "x.webp": "4", "notes.md": "n"}
    files |= {".hidden/y.jpg": "5", ".hidden/y.txt": "h", "._x.jpg": "6", "alone.txt": "t"}
    records = opened(fill(tmp_path, files))
    assert isinstance(records, Records)
    assert list(all_of(records).items()) == [
        ("a.b.PNG", (b"2", ("a cat",), {})),
        ("b/x.jpg", (b"1", ("a dog", "one dog"), {"width": 3, "caption": "j"})),
        ("x.jpg", (b"3", ("an x",), {})),
        ("x.webp", (b"4", ("an x",), {})),
    ]
    assert records.problems == ()
    for index in (-1, 4):
        with pytest.raises(IndexError):
            records[index]


def lines(*objects):
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in objects)


def test_paths_in_metadata_jsonl_are_relative_to_its_folder(tmp_path):
    content = [
        {"file_name": "1.jpg", "text": "one", "score": 5.5},
        {"file_name": "in/2.jpg", "caption": ["two", "deux", ""], "tags": ["x"]},
        "",
        {"file_name": "3.jpg", "label": 7},
    ]
    files = {"t/metadata.jsonl": "\ufeff" + lines(*content), "t/1.jpg": "1", "t/in/2.jpg": "2", "t/3.jpg": "3"}
    files |= {"t/3.txt": "three", "t/1.txt": "not this", "4.jpg": "4", "4.txt": "four"}
    records = opened(fill(tmp_path, files))
    assert all_of(records) == {
        "4.jpg": (b"4", ("four",), {}),
        "t/1.jpg": (b"1", ("one",), {"score": 5.5}),
        "t/3.jpg": (b"3", ("three",), {"label": 7}),
        "t/in/2.jpg": (b"2", ("two", "deux"), {"tags": ["x"]}),
    }
    assert records.problems == ()


def test_metadata_csv_may_quote_commas_and_line_breaks(tmp_path):
    content = 'file_name,text,score\r\n1.jpg,"a dog, ""sitting""\nhere",5\r\n2.jpg,a cat,\r\n\r\n'
    records = opened(fill(tmp_path, {"metadata.csv": content, "1.jpg": "1", "2.jpg": "2"}))
    assert all_of(records) == {
        "1.jpg": (b"1", ('a dog, "sitting"\nhere',), {"score": "5"}),
        "2.jpg": (b"2", ("a cat",), {"score": ""}),
    }


def test_the_config_names_the_fields_of_captions(tmp_path):
    content = lines({"file_name": "1.jpg", "text": "one", "alt": "other"})
    folder = fill(tmp_path, {"metadata.jsonl": content, "1.jpg": "1"})
    assert all_of(opened(folder, caption=("alt",))) == {"1.jpg": (b"1", ("other",), {"text": "one"})}


def test_lines_with_faults_are_reported_and_the_other_lines_are_used(tmp_path):
    objects = [
        {"file_name": "good.jpg", "text": "good"},
        "{",
        "[]",
        {"text": "no name"},
        {"file_name": "gone.jpg", "text": "x"},
        {"file_name": "../up.jpg", "text": "x"},
        {"file_name": "/etc/root.jpg", "text": "x"},
        {"file_name": "in/../good.jpg", "text": "again"},
        {"file_name": "empty.jpg", "text": " "},
        {"file_name": "notes.md", "text": "x"},
    ]
    content = lines(*objects).encode() + b'\n{"file_name": "latin.jpg", "text": "caf\xe9"}'
    files = {"metadata.jsonl": content, "good.jpg": "1", "empty.jpg": "2", "notes.md": "3", "unnamed.jpg": "4"}
    records = opened(fill(tmp_path, files))
    assert all_of(records) == {"good.jpg": (b"1", ("good", "again"), {})}
    assert faults(records) == sorted(
        [
            ("metadata.jsonl:2", "broken metadata"),
            ("metadata.jsonl:3", "broken metadata"),
            ("metadata.jsonl:4", "broken metadata"),
            ("gone.jpg", "no image"),
            ("../up.jpg", "path outside"),
            ("/etc/root.jpg", "path outside"),
            ("empty.jpg", "no caption"),
            ("notes.md", "no image"),
            ("unnamed.jpg", "no caption"),
            ("metadata.jsonl:11", "caption not utf-8"),
        ]
    )


def test_several_lines_about_an_image_are_several_captions(tmp_path):
    content = lines(
        {"file_name": "1.jpg", "text": "one", "split": "a"},
        {"file_name": "2.jpg", "width": 5},
        {"file_name": "1.jpg", "text": "uno", "split": "b"},
        {"file_name": "2.jpg", "text": ["two", "deux"]},
        {"file_name": "1.jpg", "text": "one"},
    )
    records = opened(fill(tmp_path, {"metadata.jsonl": content, "1.jpg": "1", "2.jpg": "2"}))
    assert all_of(records) == {
        "1.jpg": (b"1", ("one", "uno"), {"split": "a"}),
        "2.jpg": (b"2", ("two", "deux"), {"width": 5}),
    }
    assert records.problems == ()


def test_endings_in_capitals_are_those_in_small_letters(tmp_path):
    files = {"IMG_0.JPG": "0", "IMG_0.TXT": "zero", "IMG_0.JSON": '{"width": 3}', "in/1.Png": "1"}
    files |= {"in/METADATA.JSONL": lines({"file_name": "1.Png", "text": "one"})}
    assert all_of(opened(fill(tmp_path, files))) == {
        "IMG_0.JPG": (b"0", ("zero",), {"width": 3}),
        "in/1.Png": (b"1", ("one",), {}),
    }


def test_the_config_names_the_extensions_of_texts_and_every_text_next_to_an_image_is_read(tmp_path):
    fill(
        tmp_path, {"1.jpg": "1", "1.caption": "one\nuno", "2.jpg": "2", "2.cap": "two", "2.tags": "2, t", "2.txt": "2"}
    )
    assert {key: one[1] for key, one in all_of(opened(tmp_path)).items()} == {
        "1.jpg": ("one", "uno"),
        "2.jpg": ("2", "two"),
    }
    records = opened(tmp_path, texts=("tags",))
    assert {key: one[1] for key, one in all_of(records).items()} == {"2.jpg": ("2, t",)}
    assert faults(records) == [("1.jpg", "no caption")]
    assert "has no 1.tags next to it" in records.problems[0].reason


def test_files_of_other_formats_beside_captions_are_reported_unless_their_image_is_there(tmp_path):
    files = {"1.heic": "1", "1.txt": "one", "2.jpg": "2", "2.psd": "2", "2.txt": "two", "3.PSD": "3", "3.TXT": "three"}
    files |= {"README.md": "r", "LICENSE.txt": "l", "notes": "n", "4.svg": "no caption"}
    records = opened(fill(tmp_path, files))
    assert list(all_of(records)) == ["2.jpg"]
    assert faults(records) == [("1.heic", "no image"), ("3.PSD", "no image")]
    assert "has a caption, expected an image with .jpg or .jpeg or .png" in records.problems[0].reason


@pytest.mark.parametrize("ending", ["gif", "bmp", "tif", "tiff", "jfif", "avif", "webp"])
def test_every_ending_of_a_format_that_is_decoded_is_an_image(tmp_path, ending):
    records = opened(fill(tmp_path, {f"1.{ending}": "1", "1.txt": "one"}))
    assert list(all_of(records)) == [f"1.{ending}"] and records.problems == ()


@pytest.mark.parametrize("name", ["train.csv", "train.tsv", "TRAIN.TSV"])
def test_the_config_names_the_metadata_file_and_its_columns(tmp_path, name):
    comma = "\t" if name.lower().endswith("tsv") else ","
    rows = [("filepath", "title", "likes"), (f"{tmp_path}/in/1.jpg", "one", "5"), ("in/2.jpg", "two", "")]
    fill(tmp_path, {name: "\n".join(map(comma.join, rows)), "in/1.jpg": "1", "in/2.jpg": "2"})
    named = {"metadata": (name,), "file": "filepath", "caption": ("title",)}
    assert all_of(opened(tmp_path, **named)) == {
        "in/1.jpg": (b"1", ("one",), {"likes": "5"}),
        "in/2.jpg": (b"2", ("two",), {"likes": ""}),
    }
    with pytest.raises(UserError, match=f"{name}: expected a column file_name, got filepath, title, likes; name"):
        opened(tmp_path, metadata=(name,))
    with pytest.raises(UserError, match=r"metadata: expected names that end in \.csv, \.tsv or \.jsonl, got a\.json"):
        opened(tmp_path, metadata=("a.json",))


def test_tabs_separate_the_columns_of_a_csv_whose_header_has_them(tmp_path):
    fill(tmp_path, {"metadata.csv": "file_name\ttext\n1.jpg\tone, with a comma\n", "1.jpg": "1"})
    assert all_of(opened(tmp_path)) == {"1.jpg": (b"1", ("one, with a comma",), {})}


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ({"text": 7}, "caption not a text", "expected a text that is not blank, got int 7 in text"),
        ({"text": {"en": "x"}}, "caption not a text", "got dict {'en': 'x'} in text"),
        ({"text": [1, 2]}, "caption not a text", "got a list of 2 without a text in text"),
        ({"text": " "}, "no caption", "got a blank text in text"),
        ({"text": None}, "no caption", "got nothing in text"),
        ({"prompt": "a cat", "w": 3}, "no caption", "expected a field text or caption, got the fields prompt, w"),
    ],
)
def test_metadata_without_a_caption_says_what_it_has_instead(tmp_path, line, kind, says):
    content = lines({"file_name": "1.jpg", **line})
    (problem,) = opened(fill(tmp_path, {"metadata.jsonl": content, "1.jpg": "1"})).problems
    assert (problem.key, problem.kind) == ("1.jpg", kind)
    assert says in problem.reason and "metadata.jsonl:1" in problem.reason and "has no 1.txt or" in problem.reason


def test_rows_of_a_csv_with_faults_are_reported(tmp_path):
    content = b"file_name,text\n1.jpg,one\n2.jpg\n3.jpg,caf\xe9\n4.jpg,four\n"
    records = opened(fill(tmp_path, {"metadata.csv": content, "1.jpg": "1", "4.jpg": "4"}))
    assert list(all_of(records)) == ["1.jpg", "4.jpg"]
    assert faults(records) == [("metadata.csv:3", "broken metadata"), ("metadata.csv:4", "caption not utf-8")]


@pytest.mark.parametrize("name", ["metadata.csv", "in/metadata.csv"])
def test_a_metadata_file_without_file_names_is_an_error(tmp_path, name):
    fill(tmp_path, {name: "text,score\nx,1\n", "1.jpg": "1"})
    with pytest.raises(UserError, match=f"{name}: expected a column file_name, got text, score"):
        opened(tmp_path)
    fill(tmp_path, {name: "file_name,text" + "x" * 200_000 + "\n1.jpg,a"})
    with pytest.raises(UserError, match=f"{name}, line 1: field larger"):
        opened(tmp_path)
    fill(tmp_path, {name: "file_name,text\n", name.replace("csv", "jsonl"): ""})
    with pytest.raises(UserError, match=r"expected one metadata file in this folder, got metadata\.csv and metadata"):
        opened(tmp_path)


def test_links_out_of_the_folder_are_reported_and_links_within_it_are_read(tmp_path):
    fill(tmp_path / "away", {"secret.jpg": "s", "secret.txt": "secret", "deep/z.jpg": "z", "deep/z.txt": "z"})
    folder = fill(tmp_path / "here", {"in/1.jpg": "1", "in/1.txt": "one", "3.jpg": "3", "5.txt": "five", "6.jpg": "6"})
    (folder / "2.jpg").symlink_to("in/1.jpg")
    (folder / "2.txt").symlink_to(folder / "in" / "1.txt")
    (folder / "3.txt").symlink_to("../away/secret.txt")
    (folder / "4.jpg").symlink_to(tmp_path / "away" / "secret.jpg")
    (folder / "4.txt").write_text("four")
    (folder / "5.jpg").symlink_to("in/nothing.jpg")
    (folder / "deep").symlink_to("../away/deep")
    (folder / "again").symlink_to("in")
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "6.txt")
    (tmp_path / "door").symlink_to("here")
    for path in (folder, tmp_path / "door"):
        records = opened(path)
        assert all_of(records) == {"2.jpg": (b"1", ("one",), {}), "in/1.jpg": (b"1", ("one",), {})}
        assert faults(records) == [
            ("3.txt", "path outside"),
            ("4.jpg", "path outside"),
            ("5.jpg", "not a file"),
            ("6.txt", "not a file"),
            ("deep", "path outside"),
            ("pipe.jpg", "not a file"),
        ]


def test_metadata_does_not_lead_through_a_link_out_of_the_folder(tmp_path):
    fill(tmp_path / "away", {"secret.jpg": "s"})
    content = lines({"file_name": "out.jpg", "text": "x"}, {"file_name": "door/secret.jpg", "text": "y"})
    folder = fill(tmp_path / "here", {"metadata.jsonl": content})
    (folder / "out.jpg").symlink_to("../away/secret.jpg")
    (folder / "door").symlink_to("../away")
    records = opened(folder)
    assert len(records) == 0
    assert faults(records) == [("door", "path outside"), ("door/secret.jpg", "no image"), ("out.jpg", "path outside")]


def test_a_file_name_that_is_not_utf_8_is_reported(tmp_path):
    fill(tmp_path, {"1.jpg": "1", "1.txt": "one"})
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):
        pass
    assert faults(opened(tmp_path)) == [("caf\\udce9.jpg", "name not utf-8")]


def test_files_that_are_too_large_are_left_out_unread(tmp_path):
    files = {"1.jpg": "x" * 101, "1.txt": "one", "2.jpg": "2", "2.txt": "x" * 65_537, "3.jpg": "x" * 100, "3.txt": "t"}
    files |= {"4.jpg": "4", "4.txt": "t", "4.json": " " * (2**20 + 1)}
    records = opened(fill(tmp_path, files), max_bytes=100)
    assert list(all_of(records)) == ["3.jpg"]
    assert faults(records) == [
        ("1.jpg", "image too large"),
        ("2.jpg", "caption too large"),
        ("4.jpg", "json too large"),
    ]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"0.txt": b"caf\xe9"}, "caption not utf-8"),
        ({"0.txt": "\n \n"}, "no caption"),
        ({"0.txt": "x", "0.json": "{"}, "broken json"),
    ],
)
def test_a_bad_record_raises_on_every_reading(tmp_path, files, kind):
    records = opened(fill(tmp_path, {"0.jpg": "p", **files}))
    for _ in range(2):
        with pytest.raises(BadRecord) as error:
            records[0]
        assert (error.value.key, error.value.kind) == ("0.jpg", kind)


def test_the_fingerprint_depends_on_the_records_and_not_on_the_folder(tmp_path):
    base = {"1.jpg": "1", "1.txt": "one", "2.jpg": "2", "metadata.jsonl": lines({"file_name": "2.jpg", "text": "two"})}
    variants = {
        "same": {},
        "caption": {"metadata.jsonl": lines({"file_name": "2.jpg", "text": "twi"})},
        "metadata": {"metadata.jsonl": lines({"file_name": "2.jpg", "text": "two", "n": 1})},
        "size": {"1.txt": "one more"},
        "more": {"3.jpg": "3", "3.txt": "three"},
    }
    found = {name: opened(fill(tmp_path / name, base | files)).fingerprint() for name, files in variants.items()}
    assert len(set(found.values())) == len(variants)
    shutil.copytree(tmp_path / "same", tmp_path / "copy")
    assert opened(tmp_path / "copy").fingerprint() == found["same"]
    assert opened(tmp_path / "copy", max_bytes=10**6).fingerprint() != found["same"]


def test_a_file_that_changes_in_use_is_an_error_with_its_name(tmp_path):
    records = opened(fill(tmp_path, {"1.jpg": "1", "1.txt": "one"}))
    assert pickle.loads(pickle.dumps(records))[0].captions == ("one",)
    (tmp_path / "1.txt").write_text("another")
    with pytest.raises(UserError, match=r"1\.txt was changed while it was in use"):
        records[0]
    (tmp_path / "1.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*1\.txt: No such file"):
        records[0]


def test_a_missing_folder_a_folder_without_images_and_wrong_fields_are_errors(tmp_path):
    with pytest.raises(UserError, match="expected a folder, found nothing"):
        opened(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a folder, found a file"):
        opened(tmp_path / "file")
    with pytest.raises(UserError, match=r"expected a folder with images \(\.jpg, .* found none"):
        opened(tmp_path)
    with pytest.raises(UserError) as error:
        opened(tmp_path, caption=(), images=("JPG",), max_bytes=0)
    for field in ("caption: expected", "images: expected", "max_bytes: expected"):
        assert field in str(error.value)
