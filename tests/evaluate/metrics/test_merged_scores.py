"""Metrics of scores, the Inception Score and CMMD have the figures of one process in two."""

import json

import pytest

from tests.command_processes import finish, start_processes
from tests.evaluate.metrics.merged_scores import figures


@pytest.mark.slow
def test_two_processes_find_the_means_the_inception_score_and_cmmd_of_one():
    ended = finish(start_processes([["-m", "tests.evaluate.metrics.merged_scores"]] * 2))
    wanted = figures(0, 1, batch=64)
    assert len(wanted) == 9
    for code, out, error in ended:
        assert code == 0, error[-2000:]
        found = json.loads(out.splitlines()[-1])
        assert found.keys() == wanted.keys()
        for name, numbers in wanted.items():
            assert found[name] == pytest.approx(numbers, rel=1e-6), name
