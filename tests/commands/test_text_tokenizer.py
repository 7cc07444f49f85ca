import io
import tarfile

import pytest

from dalle_jax.__main__ import main
from dalle_jax.data.caption_reader import captions_of, read_captions
from dalle_jax.data.examples.held_out import HeldOut
from dalle_jax.data.mixture import Mixture, MixturePart
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.webdataset import WebDataset
from dalle_jax.text.sentencepiece import SentencePiece
from tests.data.tars import sample, write


@pytest.fixture
def config(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for place in range(30):
            for name, content in (("jpg", b"no image at all"), ("txt", b"A Red circle\na blue square")):
                info = tarfile.TarInfo(f"{place:03d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    path = tmp_path / "text.gin"
    path.write_text(
        f"run = @TextTokenizerRun\nsource = @WebDataset\nsource.files = ('{tmp_path / 'a.tar'}',)\nvocabulary = 30\n"
        "captions = 30\nalgorithm = 'bpe'\ntext_length = 4\ndropout = 0.1\n"
    )
    return path


def test_captions_of_tars_are_read_without_their_images_and_coverage_is_printed(config, tmp_path, capsys):
    out = tmp_path / "text.model"
    assert main(["text-tokenizer", str(config), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "60 captions" in said and "truncated at 4" in said and "merges dropped" in said
    text = SentencePiece(out.read_bytes(), 32)
    assert text.decode(text.encode("A RED square")) == "a red square"
    assert main(["text-tokenizer", str(config), "--out", str(out), "--set", "lower=False"]) == 0
    text = SentencePiece(out.read_bytes(), 32)
    assert text.decode(text.encode("A Red square")) == "A Red square"


def test_the_captions_of_held_out_images_are_skipped(tmp_path):
    folder = tmp_path / "numbered"
    folder.mkdir()
    members = [one for number in range(40) for one in sample(f"{number:02d}")]
    source = WebDataset((str(write(folder / "0.tar", *members)),))
    held_out = HeldOut(share=0.25)
    keys = [f"{number:02d}" for number in range(40)]
    kept = [f"caption {key}" for key, held in zip(keys, held_out.mask(keys), strict=True) if not held]
    assert list(read_captions(source, 40, [], held_out=held_out)) == kept and 25 < len(kept) < 35
    assert list(read_captions(source, 7, [], held_out=held_out)) == kept[:7]
    twice = Mixture({"a": MixturePart(source, 1.0), "b": MixturePart(source, 1.0)})
    assert list(read_captions(twice, 8, [], held_out=held_out)) == 2 * kept[:4]


def test_the_config_selects_held_out_captions_and_scenes_have_none(config, tmp_path, capsys):
    flags = ["--set", "held_out=@HeldOut", "--set", "held_out.count=10", "--out", str(tmp_path / "m")]
    assert main(["text-tokenizer", str(config), *flags]) == 0
    assert "40 captions" in capsys.readouterr().out
    assert main(["text-tokenizer", "smoke/text.gin", *flags]) == 2
    assert "held_out: expected None, since only records of files can be held out" in capsys.readouterr().err


def test_dropout_of_a_unigram_model_is_refused(config, capsys, tmp_path):
    flags = ["--set", "algorithm='unigram'", "--out", str(tmp_path / "m")]
    assert main(["text-tokenizer", str(config), *flags]) == 2
    assert "dropout: expected a share in [0, 1), and 0 unless algorithm is bpe" in capsys.readouterr().err


def test_captions_of_scenes_equal_those_of_rendered_examples():
    source = Scenes(size=16, levels=(1, 2, 3), count=20, seed=3, split="train").open()
    assert [captions_of(source, one) for one in range(20)] == [source[one]["captions"] for one in range(20)]
