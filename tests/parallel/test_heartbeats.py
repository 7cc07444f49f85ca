"""Heartbeats of the processes of a run, with the elapsed time as an argument."""

from dalle_jax.parallel.heartbeats import Heartbeat, Silences

FIRST = Heartbeat(1, "node1")


def test_a_silent_process_is_announced_once_and_lost_after_the_limit():
    silences = Silences(30)
    lines = [silences.update({1: FIRST, 2: Heartbeat(second, "node2")}, 1.0) for second in range(40)]
    assert [second for second, found in enumerate(lines) if found] == [11]
    assert lines[11] == [
        "process 1 (node1) has given no sign of life for 11 s; the run waits for it, up to 30 s in all"
    ]
    process, reason = silences.lost()
    assert process == 1
    assert reason.startswith("node1 gave no sign of life for 30 s")


def test_a_process_that_continues_is_not_lost():
    silences = Silences(30)
    for _ in range(20):
        silences.update({1: FIRST}, 1.0)
    assert silences.update({1: Heartbeat(2, "node1")}, 1.0) == ["process 1 (node1) is back after 19 s"]
    for _ in range(20):
        silences.update({1: Heartbeat(2, "node1")}, 1.0)
    assert silences.lost() is None


def test_a_process_that_has_left_is_not_watched():
    silences = Silences(30)
    silences.update({1: FIRST, 2: FIRST}, 1.0)
    for second in range(50):
        assert silences.update({2: Heartbeat(second, "node2")}, 1.0) == []
    assert silences.lost() is None
