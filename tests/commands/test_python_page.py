"""The code blocks of docs/python.md, in order, and the Python API compared with the command."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import dalle_jax
from dalle_jax.__main__ import main
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_every_code_block_of_the_page_runs(smoke_demo, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(smoke_demo)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == PAGE.read_text(encoding="utf-8").count("```") // 2 >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    generation = names["generation"]
    assert generation.pixels.shape == (4, 32, 32, 3) and generation.pixels.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(Image.open("best.png")), generation.pixels[0])
    np.testing.assert_allclose(names["fit"], generation.scores, atol=1e-5)
    assert names["table"].shape == (1, 2)
    np.testing.assert_array_equal(names["copies"], names["pipeline"].codec.reconstruct(generation.pixels))
    top = names["pipeline"].codec.encode("best.png")[0, : names["codes"].shape[1] // 2]
    assert names["completed"].pixels.shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(names["codes"][0, : len(top)], top)


def test_a_seed_gives_the_images_of_the_command(smoke_demo, tmp_path):
    flags = ["--prompt", "a red circle", "--candidates", "4", "--keep", "2", "--guidance", "2", "--seed", "7"]
    assert main(["sample", "--model", str(smoke_demo), *flags, "--out", str(tmp_path)]) == 0
    pipeline = dalle_jax.load(str(smoke_demo))
    generation = pipeline("a red circle", candidates=4, keep=2, guidance=2.0, seed=7)
    for rank, image in enumerate(generation.pixels):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"0000_{rank:02d}.png")), image)


def test_a_folder_of_a_different_model_is_an_error(smoke_demo, tmp_path):
    for folder, says in (
        (tmp_path, "model.gin"),
        (smoke_demo / "clip", "expected pipeline.gin, or model.gin of a transformer that generates codes, got a Clip"),
    ):
        with pytest.raises(dalle_jax.UserError, match=says):
            dalle_jax.load(folder)
    with pytest.raises(dalle_jax.UserError, match="expected a Clip, got a"):
        dalle_jax.load(smoke_demo, clip=smoke_demo / "tokenizer")
    with pytest.raises(dalle_jax.UserError, match="batch: expected at least 1"):
        dalle_jax.load(smoke_demo, batch=0)


def test_a_layout_of_two_devices_generates_the_images_of_one(smoke_demo):
    layout = Layout(make_mesh(Mesh(fsdp=2), jax.devices()[:2]), Rules())
    one, two = (
        dalle_jax.load(smoke_demo, batch=4, layout=place)("a red circle", candidates=4, seed=3)
        for place in (None, layout)
    )
    np.testing.assert_array_equal(one.pixels, two.pixels)
