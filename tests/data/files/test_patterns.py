import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle_jax.config.errors import UserError
from dalle_jax.data.files import patterns as files
from dalle_jax.data.files.patterns import expand_braces, expand_paths


@pytest.fixture
def folder(tmp_path):
    for name in ("a.tar", "b.tar", "part-000.tar", "part-001.tar", "part-010.tar", "in/c.tar", "in/deep/d.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("a.json", "in/b.parquet", ".hidden.tar", "a.tar.index", ".cache/x.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(folder, *patterns):
    return [os.path.relpath(name, folder) for name in expand_paths([f"{folder}/{one}" for one in patterns], (".tar",))]


@pytest.mark.parametrize(
    ("patterns", "files"),
    [
        (["a.tar"], ["a.tar"]),
        (["in"], ["in/c.tar", "in/deep/d.tar"]),
        ([""], ["a.tar", "b.tar", "in/c.tar", "in/deep/d.tar", "part-000.tar", "part-001.tar", "part-010.tar"]),
        (["*.tar"], ["a.tar", "b.tar", "part-000.tar", "part-001.tar", "part-010.tar"]),
        (["[ab].tar"], ["a.tar", "b.tar"]),
        (["in/**/*.tar"], ["in/c.tar", "in/deep/d.tar"]),
        (["part-{000..001}.tar"], ["part-000.tar", "part-001.tar"]),
        (["part-0{1..0}{0,1}.tar"], None),
        (["{b,a}.tar"], ["a.tar", "b.tar"]),
        (["{in/{c,deep/d},a}.tar"], ["a.tar", "in/c.tar", "in/deep/d.tar"]),
        (["part-0*.tar", "./a.tar", "a.tar", "in/../a.tar"], ["a.tar", "part-000.tar", "part-001.tar", "part-010.tar"]),
        (["a.json"], ["a.json"]),
    ],
)
def test_patterns_match_files_sorted_and_without_duplicates(folder, patterns, files):
    if files is None:
        with pytest.raises(UserError, match=r"part-011\.tar"):
            found(folder, *patterns)
    else:
        assert found(folder, *patterns) == files


def test_one_error_names_every_pattern_without_files_and_every_missing_number(folder):
    with pytest.raises(UserError) as error:
        found(folder, "a.tar", "none/*.tar", "part-{000..002}.tar", "b{1,2}.tar")
    for name in ("none/*.tar", "part-002.tar (of", "b1.tar (of", "b2.tar (of"):
        assert name in str(error.value)
    assert "part-001.tar" not in str(error.value)
    with pytest.raises(UserError, match="an empty list"):
        expand_paths([], (".tar",))


def test_a_folder_without_files_of_the_suffix_is_an_error_with_its_name(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"with \.tar in them; found nothing for .*/empty"):
        found(folder, "empty")


def test_web_urls_may_have_braces_but_not_globs():
    assert expand_paths(["https://example.org/{00..02}.tar?x=1"], (".tar",)) == tuple(
        f"https://example.org/0{number}.tar?x=1" for number in range(3)
    )
    with pytest.raises(UserError, match="because a web server cannot list its files"):
        expand_paths(["https://example.org/*.tar"], (".tar",))


def test_a_url_of_an_unknown_scheme_is_an_error():
    with pytest.raises(UserError, match="ftp://example"):
        expand_paths(["ftp://example.org/a.tar"], (".tar",))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}{1,2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("{a,}x", ["ax", "x"]),
        ("{word}{a,b}", ["{word}a", "{word}b"]),
        ("{}{", ["{}{"]),
        ("{a,a}", ["a"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern, names):
    assert expand_braces(pattern) == names


def test_too_many_names_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(files, "MAX_NAMES", 2000)
    for pattern in ("{0..99999999999}", "{0..999}" * 9, "{0..9}" * 40):
        with pytest.raises(UserError, match="at most 2,000"):
            expand_braces(pattern)


@given(st.text("{},.019ab", max_size=14))
def test_any_text_with_braces_is_expanded_or_refused(text):
    try:
        names = expand_braces(text)
    except UserError:
        return
    assert names
    assert len(set(names)) == len(names)
    if "{" not in text:
        assert names == [text]
