import json

import jax
import numpy as np
import pytest

from dalle_jax.parallel.chips import CHIPS
from dalle_jax.train.monitor.goodput import FILE, GoodputLog
from dalle_jax.train.monitor.monitor import peak_flops
from dalle_jax.train.monitor.timing import HostTimes, StepTimer, Straggler, TimeSpent, gathered, host_names
from dalle_jax.train.recompiles import difference, signature
from tests.train.test_resume import run
from tests.train.toy import Toy, layout


class Clock:
    """A clock whose seconds pass on request."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds
        return seconds


def hosts(*waits, step=1.0):
    rows = np.array([[step, wait, 2 * wait] for wait in waits], np.float32)
    return HostTimes(*rows.T)


def test_the_timer_separates_steps_waits_and_pauses_and_excludes_the_first_step():
    clock = Clock()
    timer = StepTimer(clock)
    for wait, step in ((50.0, 300.0), (1.0, 2.0), (3.0, 4.0)):
        timer.wait_for(lambda wait=wait: clock.passes(wait))
        clock.passes(step)
        timer.stepped()
    with timer.pause():
        clock.passes(1000.0)
    assert timer.spent() == TimeSpent(steps=2, seconds=10.0, waited=4.0)
    assert timer.spent().useful == 6.0
    assert (timer.longest_wait(), timer.longest_wait()) == (3.0, 0.0)


def test_before_the_first_step_no_time_is_counted():
    timer = StepTimer(Clock())
    assert timer.wait_for(lambda: "batch") == "batch"
    with timer.pause():
        pass
    assert timer.spent() == TimeSpent(0, 0.0, 0.0)


def test_metrics_of_hosts_are_means_except_the_longest_wait_and_the_largest_share():
    figures = hosts(0.1, 0.4, 0.1).metrics()
    assert figures.pop("host/slowest") == 1
    expected = {
        "host/step_seconds": 1.0,
        "host/wait_seconds": 0.2,
        "host/wait_seconds_max": 0.8,
        "host/wait_share": 0.4,
    }
    assert figures.keys() == expected.keys()
    np.testing.assert_allclose(list(figures.values()), list(expected.values()), rtol=1e-6)
    assert "host/slowest" not in gathered(TimeSpent(4, 8.0, 2.0), 1.5).metrics()
    np.testing.assert_array_equal(np.stack(gathered(TimeSpent(4, 8.0, 2.0), 1.5))[:, 0], [2.0, 0.5, 1.5])


def test_the_slowest_host_is_named_once():
    straggler, names = Straggler(), ("a", "b", "c")
    line = straggler.message(hosts(0.01, 0.01, 0.5), names)
    assert (
        "SLOWEST HOST: process 2 on c waits 0.5 s for its batch in a step of 1 s; the other processes wait 0.01 s"
        in line
    )
    assert straggler.message(hosts(0.01, 0.02, 0.5), names) is None
    assert "process 0 on a" in straggler.message(hosts(0.5, 0.02, 0.01), names)
    assert straggler.message(hosts(0.01, 0.01, 0.01), names) is None
    assert straggler.message(hosts(0.4, 0.5, 0.4), names) is None, "all wait alike: that is no matter of one host"
    assert straggler.message(hosts(0.9), ("a",)) is None
    assert straggler.message(hosts(0.5, 0.02, 0.01), names) is not None


def test_a_single_process_returns_its_own_host_name():
    assert len(host_names()) == 1 and host_names()[0]


def test_goodput_counts_steps_that_were_kept_over_restarts_and_the_time_between(tmp_path):
    clock = Clock()
    goodput = GoodputLog(tmp_path, 0, clock)
    clock.passes(10.0)
    goodput.record(5, useful=8.0)
    clock.passes(10.0)
    assert goodput.goodput(16.0) == 16.0 / 20.0
    goodput.record(10, useful=16.0)  # a checkpoint that was never whole
    clock.passes(20.0)
    goodput = GoodputLog(tmp_path, 5, clock)
    assert goodput.goodput(0.0) == 8.0 / 40.0
    clock.passes(10.0)
    goodput.record(10, useful=7.0)
    assert goodput.goodput(7.0) == 15.0 / 50.0
    assert GoodputLog(tmp_path, 10, clock).goodput(0.0) == 15.0 / 50.0


def test_goodput_starts_at_the_first_start_even_without_a_checkpoint(tmp_path):
    clock = Clock()
    GoodputLog(tmp_path, 0, clock)
    clock.passes(30.0)
    (tmp_path / FILE).open("a").write('{"step": 3, "ti')
    goodput = GoodputLog(tmp_path, 0, clock)
    clock.passes(10.0)
    assert goodput.goodput(8.0) == 8.0 / 40.0


def test_a_recompilation_is_explained_by_the_changed_arrays():
    before = signature({"batch": {"x": np.zeros((8, 4), np.float32), "y": np.zeros(8, np.float32)}})
    now = signature({"batch": {"x": np.zeros((8, 5), np.float32), "z": np.zeros(8, np.int32)}})
    assert difference(before, now) == (
        "batch x was float32[8, 4] and is float32[8, 5]; batch z was not there and is int32[8]; "
        "batch y was float32[8] and is not there"
    )
    assert "so the reason is something else" in difference(before, before)
    lay = layout(8, 1, 1)
    assert "('data', 'fsdp')" in str(signature(lay.put_batch({"x": np.zeros((8, 4), np.float32)})))


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_the_peak_is_the_sum_over_devices_and_unknown_if_any_is_unknown(chip):
    assert peak_flops([chip.kinds[0]] * 4) == 4 * chip.device_flops
    assert peak_flops([chip.kinds[0], jax.devices()[0].device_kind]) is None


class Growing(Toy):
    """A task whose target has a different type from step 6 on."""

    def prepare(self, examples, seeds):
        batch = super().prepare(examples, seeds)
        late = seeds is not None and seeds[0][1] >= 6
        return batch | {"y": batch["y"].astype(np.int32 if late else np.float32)}


def test_a_run_writes_its_speed_and_the_reason_for_a_recompilation(tmp_path, capsys):
    run(tmp_path, task=Growing(), steps=8, save_every=4, evaluate_every=4)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = (line for line in lines if "train/loss" in line)
    for line in (first, last):
        assert 0 < line["speed/goodput"] < 1
        assert 0 <= line["host/wait_seconds"] <= line["host/wait_seconds_max"] < line["host/step_seconds"] * 4
        np.testing.assert_allclose(
            line["speed/examples_per_second"] * line["host/step_seconds"], 8, rtol=1e-4
        )  # 8 rows a step
        assert "speed/mfu" not in line and "host/slowest" not in line
    assert (first["speed/compiles"], last["speed/compiles"]) == (1, 2)
    said = [line for line in capsys.readouterr().err.splitlines() if "compiled again" in line]
    over = "over (('data', 'fsdp'),)"
    why = f"batch y was float32[8] {over} and is int32[8] {over}"
    assert said == [f"WARNING step 8: the step was compiled again: {why}"]
    goodput = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["step"] for line in goodput] == [0, 4, 8]
    assert 0 == goodput[0]["useful_seconds"] < goodput[1]["useful_seconds"] < goodput[2]["useful_seconds"]
