"""The order of devices in a mesh with one slice and with several, and the errors."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.axes import BATCH, EMBED, HEADS, MLP
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh, mesh_shape, split_into_slices
from dalle_jax.parallel.rules import Rules


def device(index, in_slice, platform="tpu"):
    return SimpleNamespace(id=index, slice_index=in_slice, platform=platform)


def test_minus_one_stands_for_the_remaining_devices():
    assert mesh_shape(Mesh(-1, 2, 2), 8) == (2, 2, 2)
    assert mesh_shape(Mesh(-1, 2, 1, slices=2), 8) == (2, 2, 1)
    assert make_mesh(Mesh()).shape == {"data": 8, "fsdp": 1, "tensor": 1}
    assert make_mesh(Mesh(1, 1, 1)).size == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Mesh(3, -1, 1), "product divides 8 devices, .* whose product is 3"),
        (Mesh(4, 4, 1), "at most 8 devices, got .* needs 16"),
        (Mesh(-1, -1, 1), "at most one -1 .* data=-1, fsdp=-1"),
        (Mesh(0, 1, 1), "positive"),
        (Mesh(slices=3), r"mesh\.slices: expected a number that divides 8 devices, one of \[1, 2, 4, 8\], got 3"),
        (Mesh(slices=0), "mesh.slices: .* got 0"),
        (Mesh(4, 2, 1, slices=2), "at most 4 devices in each slice, got .* needs 8"),
    ],
)
def test_an_impossible_mesh_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        make_mesh(config)


def test_idle_devices_are_refused_with_several_processes(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="expected to use all 8 devices of 2 processes, got 4"):
        make_mesh(Mesh(2, 2, 1))


def test_slices_are_an_outer_axis_over_runs_of_devices():
    mesh = make_mesh(Mesh(-1, 2, 1, slices=2))
    assert mesh.shape == {"slices": 2, "data": 2, "fsdp": 2, "tensor": 1}
    assert [[one.id for one in part.flat] for part in mesh.devices] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_devices_are_grouped_by_their_slice_index():
    devices = [device(index, index % 2) for index in range(6)]
    found = [[one.id for one in part] for part in split_into_slices(devices, 2)]
    assert found == [[0, 2, 4], [1, 3, 5]]
    with pytest.raises(UserError, match=r"mesh\.slices: expected 2, .* got 1"):
        split_into_slices(devices, 1)


def test_gpu_groups_may_form_one_slice_or_several():
    devices = [device(index, index // 2, "gpu") for index in range(8)]
    assert split_into_slices(devices, 1) == [devices]
    assert split_into_slices(devices, 2) == [devices[:4], devices[4:]]


def test_slices_shard_the_batch_and_each_holds_all_parameters():
    layout = Layout(make_mesh(Mesh(1, 2, 2, slices=2)), Rules())
    assert layout.spec((BATCH, None, EMBED)) == P(("slices", "data", "fsdp"))
    assert layout.spec((EMBED, HEADS)) == P("fsdp", "tensor")
    kernel = jax.device_put(np.arange(16.0).reshape(4, 4), layout.sharding((EMBED, MLP), (4, 4), "kernel"))
    parts = {shard.device.id: np.asarray(shard.data) for shard in kernel.addressable_shards}
    for index in range(4):
        np.testing.assert_array_equal(parts[index], parts[index + 4])
    rows = layout.put_batch({"x": np.arange(8)})["x"]
    assert {shard.device.id: shard.data.tolist() for shard in rows.addressable_shards}[4] == [4, 5]


def test_rules_with_an_unknown_mesh_axis_are_refused():
    with pytest.raises(UserError, match=r"rules\.mlp: expected mesh axes of .*, got 'tensors'; did you mean tensor\?"):
        Layout(make_mesh(Mesh()), Rules(mlp=("tensors",)))
