import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from dalle_jax.text.byte_pairs import CLIP_WORDS, GPT2_WORDS, bytes_to_letters, letters_to_text

TEXTS = st.text(max_size=40) | st.text(alphabet="aZ\u00e9\u0345\u017f019\u00bd'srteLMvd_. \n\t\x1c\u3000", max_size=40)


@pytest.mark.parametrize(
    ("text", "gpt2", "clip"),
    [
        ("it's 12,  é\n", ["it", "'s", " 12", ",", " ", " é", "\n"], ["it", "'s", "1", "2", ",", "é"]),
        ("IT'S  _x_", ["IT", "'", "S", " ", " _", "x", "_"], ["IT", "'S", "_", "x", "_"]),
        ("½x \u0345", ["½", "x", " \u0345"], ["½", "x"]),  # regex drops U+0345 if case is ignored, as for CLIP
        ("漢字\x1ca", ["漢字", "\x1c", "a"], ["漢字", "\x1c", "a"]),  # no white space, unlike in Python's re
    ],
)
def test_words_are_split_as_by_the_published_patterns(text, gpt2, clip):
    assert GPT2_WORDS.findall(text) == gpt2
    assert CLIP_WORDS.findall(text) == clip


@given(TEXTS)
def test_gpt_2s_words_make_up_the_whole_text(text):
    assert "".join(GPT2_WORDS.findall(text)) == text


@given(TEXTS)
def test_clips_words_make_up_the_text_without_white_space_and_u_0345(text):
    assert "".join(CLIP_WORDS.findall(text)) == regex.sub(r"[\s\u0345]", "", text)


@given(st.text(max_size=40))
def test_letters_of_bytes_decode_to_the_text(text):
    letters = bytes_to_letters(text)
    assert len(letters) == len(text.encode()) and letters.isprintable() and " " not in letters
    assert letters_to_text(letters) == text
