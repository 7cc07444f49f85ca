"""Figures are the same on one device or eight, and in one process or two; only comparable figures meet."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.metric import Measurement, merge_over_hosts, require_comparable
from tests.command_processes import finish, start_processes
from tests.evaluate.metrics.merged_figures import WIDTH, figures, rows_of, sets_of


def assert_same(found, wanted):
    assert found.keys() == wanted.keys() and len(found) == 8
    for name, numbers in wanted.items():
        assert found[name] == pytest.approx(numbers, rel=1e-6), name


def test_merged_figures_are_those_of_one_process_with_other_batches():
    merged = sets_of(2, 3, batch=8)
    for process in (0, 1):
        for own, other in zip(merged, sets_of(process, 3, batch=31), strict=True):
            own.merge(other)
    assert_same(figures(merged), figures(sets_of(0, 1, batch=64)))
    assert_same(figures([merge_over_hosts(one) for one in merged]), figures(merged))


def test_features_of_eight_devices_give_the_figures_of_one():
    devices = jax.devices()
    assert len(devices) == 8
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)), jnp.float32)
    project = jax.jit(lambda rows: jax.nn.relu(rows @ weights))
    by_rows = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data"))

    def comparison(place):
        sets = []
        for side in ("reference", "generated"):
            features = np.asarray(project(jax.device_put(rows_of(side)[:200], place)))
            sets.append(FeatureSet("fake", WIDTH))
            sets[-1].update(FeatureRows(np.arange(len(features)), features))
        return figures(sets)

    assert_same(comparison(by_rows), comparison(devices[0]))


@pytest.mark.slow
def test_two_processes_find_the_figures_of_one():
    ended = finish(start_processes([["-m", "tests.evaluate.metrics.merged_figures"]] * 2))
    wanted = figures(sets_of(0, 1, batch=64))
    for code, out, error in ended:
        assert code == 0, error[-2000:]
        assert_same(json.loads(out.splitlines()[-1]), wanted)


def measured(**changes):
    return Measurement(**{"name": "fd", "value": 2.0, "count": 100, "noise": 1.0, "features": "a", **changes})


def test_figures_that_are_not_comparable_are_refused():
    require_comparable(measured(), measured(value=3.0))
    require_comparable(measured(noise=None), measured(noise=None, count=50))
    for other, message in (
        (measured(name="kid"), "expected two of one metric, got fd and kid"),
        (measured(features="b"), "fd: expected features of one network and preparation, got 'a' and 'b'"),
        (measured(count=50), "fd: expected the same numbers of images, since its value falls .* got 100 .* and 50"),
    ):
        with pytest.raises(UserError, match=message):
            require_comparable(measured(), other)


def test_json_has_the_facts_that_were_measured():
    found = measured(interval=(1.5, 2.5), reference_count=200).to_json()
    assert found == {
        "value": 2.0,
        "interval_95": [1.5, 2.5],
        "noise": 1.0,
        "count": 100,
        "reference_count": 200,
        "features": "a",
    }
    assert "noise" not in measured(noise=None).to_json()
