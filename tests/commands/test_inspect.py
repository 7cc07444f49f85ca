import io
import json

import numpy as np
from PIL import Image

from dalle_jax.__main__ import main
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.array_record_layout import encode_record
from dalle_jax.text.sentencepiece import SentencePiece, train_sentencepiece
from tests.data.tars import sample, write


def write_folder(folder):
    folder.mkdir()
    out = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(out, format="PNG")
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(out.getvalue())
        (folder / f"{name}.txt").write_text(f"caption {name}")
    (folder / "c.jpg").write_bytes(b"<html>")
    (folder / "c.txt").write_text("caption c")


def test_a_folder_is_inspected_without_a_config(tmp_path, capsys):
    write_folder(tmp_path / "images")
    assert main(["inspect", str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "3 listed, 3 examined, 2 usable" in said and "bad: 1 not an image (c.jpg)" in said
    content = json.loads((tmp_path / "out" / "inspect.json").read_text(encoding="utf-8"))
    assert content["same"]["image"]["count"] == 1
    assert (tmp_path / "out" / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")


def test_every_kind_of_files_is_inspected_by_the_rule_of_its_source(tmp_path, capsys):
    def inspected(path) -> str:
        assert main(["inspect", str(path), "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr()
        return said.out.splitlines()[0] + said.err

    (tmp_path / "deep" / "in").mkdir(parents=True)
    write(tmp_path / "deep" / "in" / "A.TAR", *sample("0"), *sample("1"))
    assert inspected(tmp_path / "deep") == "2 listed, 2 examined, 0 usable"
    write_folder(tmp_path / "deep" / "loose")
    said = inspected(tmp_path / "deep")
    assert "2 listed" in said and "deep: 3 images outside of the 1 .tar files are not read; name them as" in said
    records = [encode_record(b"x", ["a"]) for _ in range(3)]
    array_files.write(tmp_path / "rows" / "a.array_record", records)
    assert inspected(tmp_path / "rows") == "3 listed, 3 examined, 0 usable"
    array_files.write(tmp_path / "deep" / "a.array_record", records)
    assert main(["inspect", str(tmp_path / "deep"), "--out", str(tmp_path / "out")]) == 2
    expected = "expected files of records of one kind, got 1 .tar and 1 .array_record; name one kind"
    assert expected in capsys.readouterr().err


def test_captions_that_a_text_tokenizer_truncates_are_counted(tmp_path, capsys):
    write_folder(tmp_path / "images")
    (tmp_path / "images" / "b.txt").write_text("caption b\nbb bb bb bb bb")
    model = tmp_path / "text.model"
    model.write_bytes(train_sentencepiece(["caption a", "caption b", "bb"] * 5, 14, "bpe", 0))
    lengths = SentencePiece(model.read_bytes(), 3).lengths(["caption a", "caption b", "bb bb bb bb bb", "caption c"])
    limit = max(lengths) - 1
    cut = lengths.count(max(lengths))
    flags = ["inspect", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--text", str(model)]
    assert main([*flags, "--text-length", str(limit)]) == 0
    assert f"{cut} of 4 captions ({cut / 4:.2%}) are truncated to {limit} tokens" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "inspect.json").read_text(encoding="utf-8"))
    assert content["truncated"] == {"text_length": limit, "count": cut, "of": 4}
    assert content["numbers"]["tokens of a caption"]["most"] == max(lengths)
    assert "captions have more than" in (tmp_path / "out" / "inspect.html").read_text(encoding="utf-8")
    assert main(flags) == 2
    assert main([*flags[:-2], "--text-length", "3"]) == 2
    assert main([*flags[:-1], str(tmp_path / "images")]) == 2
    error = capsys.readouterr().err
    assert "text_length: expected the context to compare with" in error
    assert "text_length: expected None without text" in error
    assert "expected the folder of a trained model, which contains model.gin" in error


def test_the_filters_of_a_config_are_applied(tmp_path, capsys):
    write_folder(tmp_path / "images")
    path = tmp_path / "inspect.gin"
    path.write_text(
        f"run = @InspectRun\nsource = @Folder\nsource.path = '{tmp_path / 'images'}'\nimages.size = 8\n"
        "images.filters.min_side = 25\n"
    )
    flags = ["--out", str(tmp_path / "out")]
    assert main(["inspect", str(path), *flags]) == 0
    assert "dropped: 2 side (a.png, b.png)" in capsys.readouterr().out
    assert main(["inspect", str(path), *flags, "--set", "examine=0"]) == 2
    assert main(["inspect", str(path), *flags, "--set", "images.size=0"]) == 2
    assert main(["inspect", str(tmp_path / "images"), *flags, "--set", "examine=5"]) == 2
    assert main(["inspect", str(tmp_path / "nothing"), *flags]) == 2
    assert capsys.readouterr().err.count("error:") == 4


def test_the_data_of_a_training_config_is_inspected_each_source_of_a_mixture_for_itself(tmp_path, capsys):
    write_folder(tmp_path / "images")
    path = tmp_path / "train.gin"
    path.write_text(
        "include 'smoke/tokenizer.gin'\ndata.source = @Mixture\n"
        "data.source.parts.own.weight = 1.0\ndata.source.parts.own.source = @Folder\n"
        f"data.source.parts.own.source.path = '{tmp_path / 'images'}'\n"
        "data.source.parts.drawn.weight = 1.0\ndata.source.parts.drawn.source = @Scenes\n"
        "data.source.parts.drawn.source.size = 32\ndata.source.parts.drawn.source.levels = (1,)\n"
        "data.source.parts.drawn.source.count = 5\ndata.source.parts.drawn.source.seed = 0\n"
        "data.source.parts.drawn.source.split = 'train'\n"
    )
    flags = ["--out", str(tmp_path / "out")]
    assert main(["inspect", str(path), *flags]) == 2
    assert "data.images: expected @Images" in capsys.readouterr().err
    assert main(["inspect", str(path), *flags, "--set", "data.images=@Images", "--set", "data.images.size=32"]) == 0
    said = capsys.readouterr().out
    assert "3 listed, 3 examined, 2 usable" in said and "5 listed, 5 examined, 5 usable" in said
    assert all((tmp_path / "out" / name / "inspect.html").is_file() for name in ("own", "drawn"))
