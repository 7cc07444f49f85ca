"""``sample`` on a mesh: the same images as on one device, in one process or two, and one line for a wrong mesh."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle_jax.__main__ import main
from dalle_jax.commands.flags.mesh_flags import layout_of, parse_mesh, parse_rules
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.mesh import Mesh
from dalle_jax.parallel.rules import Rules
from tests.command_processes import finish, start_processes

FLAGS = ("--prompt", "a small red circle", "--prompt", "a blue square", "--candidates", "3", "--keep", "3",
         "--guidance", "2", "--batch", "8")  # fmt: skip


def sample(model: Path, out: Path, *more: str) -> list[str]:
    return ["sample", "--model", str(model), "--out", str(out), *FLAGS, *more]


def images(out: Path) -> dict[tuple[str, int], np.ndarray]:
    """Return the images of a folder by prompt and candidate."""
    lines = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    return {(line["prompt"], line["candidate"]): np.asarray(Image.open(out / line["file"])) for line in lines}


@pytest.fixture(scope="module")
def alone(smoke_demo, tmp_path_factory) -> dict[tuple[str, int], np.ndarray]:
    out = tmp_path_factory.mktemp("alone") / "images"
    assert main(sample(smoke_demo, out)) == 0
    return images(out)


def check_same(ours: dict[tuple[str, int], np.ndarray], expected: dict[tuple[str, int], np.ndarray]) -> None:
    """Compare images; another order of sums may round a value of a pixel to its neighbour."""
    assert ours.keys() == expected.keys() and len(ours) == 6
    for key, image in expected.items():
        assert np.abs(ours[key].astype(int) - image).max() <= 1, key


def test_a_mesh_gives_the_images_of_one_device(smoke_demo, alone, tmp_path):
    assert main(sample(smoke_demo, tmp_path / "out", "--mesh", "data=2,fsdp=2,tensor=2")) == 0
    check_same(images(tmp_path / "out"), alone)


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_images_of_one_device_and_the_first_writes(smoke_demo, alone, tmp_path):
    command = ["-m", "dalle_jax", *sample(smoke_demo, tmp_path / "out", "--mesh", "data=4,tensor=2")]
    ended = finish(start_processes([command] * 2, devices=4))
    assert [code for code, _, _ in ended] == [0, 0], ended
    printed = [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for _, out, _ in ended]
    assert printed == [[f"{tmp_path}/out/grid.png"], []]
    check_same(images(tmp_path / "out"), alone)


@pytest.mark.slow
def test_two_processes_without_a_mesh_end_with_one_line(smoke_demo, tmp_path):
    ended = finish(start_processes([["-m", "dalle_jax", *sample(smoke_demo, tmp_path / "out")]] * 2, devices=4))
    assert [code for code, _, _ in ended] == [2, 2], ended
    says = "--mesh: expected the mesh of all 8 devices of 2 processes, such as --mesh data=-1, got none"
    assert any(says in error for _, _, error in ended)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--mesh", "data=16"), "mesh: expected at most 8 devices, got data=16, fsdp=1, tensor=1, which needs 16"),
        (("--mesh", "tensor=3"), "whose product divides 8 devices"),
        (("--mesh", "tensor=8"), "'heads' of size"),
        (("--mesh", "data=8", "--batch", "12"), "batch: expected a multiple of 8"),
        (("--mesh", "dta=2"), "got 'dta=2'; did you mean data"),
        (("--mesh", "data=two"), "--mesh data: expected a number of devices, or -1 for the remaining ones, got 'two'"),
        (("--mesh", "2,2,2"), "--mesh: expected NAME=VALUE"),
        (("--rules", "embed=tensor"), "--rules: expected --mesh with it"),
        (("--mesh", "data=8", "--rules", "embed=tensr"), "rules.embed: expected mesh axes of data, fsdp, tensor"),
    ],
)
def test_a_wrong_mesh_is_one_line(smoke_demo, tmp_path, capsys, flags, says):
    assert main(sample(smoke_demo, tmp_path / "out", *flags)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error


def test_axes_that_are_left_out_have_one_device_and_data_takes_the_rest():
    assert parse_mesh("fsdp=4,tensor=2") == Mesh(-1, 4, 2)
    assert parse_mesh("fsdp=-1") == Mesh(1, -1, 1)
    assert parse_mesh("data=2,slices=2") == Mesh(2, 1, 1, 2)
    assert parse_rules("embed=fsdp+tensor,vocab=") == Rules(embed=("fsdp", "tensor"), vocab=())


def test_without_a_mesh_one_device_holds_everything():
    assert layout_of(None, None) is None
    with pytest.raises(UserError, match="expected --mesh with it"):
        layout_of(None, "embed=fsdp")
