"""DALL·E mini's caption cleaning against cases worked out by hand. Most of them need no optional package."""

import json

import pytest
from byte_vocabularies import MERGES, VOCABULARY, write_bart

from dalle_jax.config.errors import UserError
from dalle_jax.pretrained.publishers import dalle_mini
from dalle_jax.text import dalle_mini_captions
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.dalle_mini_captions import FREQUENCIES, HashtagSplitter, clean

RANKED = b"the 900\nday 800\nit 700\nsun 600\nny 500\nsunny 400\ns 300\n20 200\n12 100\n's 90\n"


def ascii_of(text: str) -> str:
    return text.replace("é", "e").replace("—", "--")


def cleaned(caption: str, words=lambda text: text) -> str:
    return clean(caption, lambda text: text.replace("🐱", ":cat_face:"), ascii_of, words)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red CIRCLE", " a red circle"),
        ("  a\tcat\n on  a mat. ", " a cat on a mat"),
        ("cat; dog: (bird)", " cat, dog, bird"),
        ("Café — au lait", " cafe, au lait"),
        ("a 🐱!", " a, cat face"),
        ("1,234,567 cats, 3.5 dogs", " 1234567 cats, 3.5 dogs"),
        ("12/05/2020 or his/hers", " 12/05/2020 or his, hers"),
        ("it's John's 'best' day", " it's john's \" best \" day"),
        ("we'll don't o'clock", " we'll don't o \" clock"),
        ("a well-known man - here", " a well known man, here"),
        ("50% & more", " 50 % & more"),
        ("nooooo way!!!! henry VIII", " no way, henry viii"),
        ("&amp;lt;b&amp;gt;bold&lt;/b&gt; text", " bold text"),
        ("see http://a.b/c?d=e now", " see now"),
        ("[1] A castle [23]", " a castle"),
        ("<PERSON> and <PERSON>, <PERSON> run", " people run"),
        ("<PERSON> runs", " a person runs"),
        ("snake_case \\ back#", " snake case back"),
        ('say ""hello""', ' say " hello "'),
        (", comma,", " comma"),
        ("...", " "),
    ],
)
def test_a_caption_is_cleaned(caption, expected):
    assert cleaned(caption) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sunnyday", "sunny day"),  # ln 6 + ln 2 < ln 4 + ln 5 + ln 2
        ("SunnyDay", "Sunny Day"),
        ("day's", "day's"),
        ("2012", "2012"),  # "20" and "12" are joined again
        ("sun-day", "sun day"),
        ("qq", "q q"),
    ],
)
def test_hashtags_are_split_into_frequent_words(text, expected):
    words = HashtagSplitter(RANKED)
    assert words(text) == expected
    assert cleaned("a #sunnyday!", words) == " a sunny day"
    assert cleaned("a #sunnyday!") == " a sunnyday"  # without the file
    with pytest.raises(UserError, match=r"enwiki-words-frequency\.txt: expected a word"):
        HashtagSplitter(b"\n\n")


def test_cleaning_keeps_the_frequency_file_and_leaves_empty_captions_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(dalle_mini_captions, "_import_function", lambda package, name: ascii_of)
    path, config = write_bart(tmp_path), BartBpe(cleaning="dalle_mini")
    assert set(config.files(str(path))) == {"vocab.json", "merges.txt"}
    (tmp_path / FREQUENCIES).write_bytes(b"red 9\na 8\n")
    files = config.files(str(path))
    assert files[FREQUENCIES] == b"red 9\na 8\n"
    assert FREQUENCIES not in BartBpe().files(str(path))
    text = config.tokenizer(files, 8)
    red, a = VOCABULARY["Ġred"], VOCABULARY["Ġa"]
    assert text.encode_batch(["RED", "#ared.", "", " \n"]).tolist() == [
        [0, red, 2, *[1] * 5],
        [0, a, red, 2, *[1] * 4],
        [0, 2, *[1] * 6],
        [0, 2, *[1] * 6],
    ]


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(dalle_mini_captions.importlib, "import_module", missing)
    files = {"vocab.json": json.dumps(VOCABULARY).encode(), "merges.txt": MERGES.encode()}
    with pytest.raises(UserError, match=r"the package emoji, found none; install it .* pip install -e '\.\[dalle-mini"):
        BartBpe(cleaning="dalle_mini").tokenizer(files, 8)


def test_emoji_and_unidecode_clean_a_caption():
    pytest.importorskip("emoji")
    pytest.importorskip("unidecode")
    assert dalle_mini_captions.make_cleaner(None)("Ångström — 漢字 🐱 “x”") == ' angstrom, han zi, cat face, " x "'


def test_normalize_text_in_a_published_config_chooses_cleaning():
    for flags, cleaning in (
        ({"normalize_text": True}, "dalle_mini"),
        ({"normalize_text": False}, "none"),
        ({}, "none"),
    ):
        assert dalle_mini.vocabulary_for(flags) == BartBpe(cleaning=cleaning)
