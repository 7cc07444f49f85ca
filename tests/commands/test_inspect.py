import io
import json

import numpy as np
from PIL import Image

from dalle_jax.__main__ import main


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
