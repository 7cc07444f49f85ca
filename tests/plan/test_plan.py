"""Plans of a small transformer for four TPU chips. They need libtpu (the extra ``plan``) and no TPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
include 'data/codes.gin'
data.batch_size = 8
task = @GenerateCodes
task.captions.file = 'not/there.model'
task.model = @DalleConfig
task.model.text_vocab = 32
task.model.text_length = 16
task.model.codebook_size = 64
task.model.grid = (8, 8)
task.model.width = 128
task.model.depth = 3
task.model.heads = 2
task.model.scan = True
task.model.dtype = 'bfloat16'
mesh.data = 1
mesh.fsdp = -1
mesh.tensor = 2
trainer.steps = 10
trainer.schedule = @ConstantRate
trainer.schedule.rate = 1e-3
trainer.ema = @ConstantEma
trainer.ema.decay = 0.9
"""

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (pip install -e '.[plan]')"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "small.gin"
    path.write_text(CONFIG)
    return path


def plan(config: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dalle_jax", "plan", str(config), "--topology", "v5e:2x2", *flags]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, env=environment)


@needs_libtpu
def test_a_small_model_fits_and_the_report_adds_up(config):
    done = plan(config, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["fits"] and report["chips"] == report["devices"] == 4 and not report["quick"]
    assert report["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2}
    # float32 parameters, their average and two moments, most of them split over all four
    assert report["whole_model_bytes"] == 4 * report["parameters"]
    assert report["parameters"] * 4 <= report["state_bytes"] < report["parameters"] * 8
    assert report["state_bytes"] <= report["initialisation_peak_bytes"] < report["peak_bytes"] < report["room_bytes"]
    length, rows, width = 16 + 64, 8, 128
    products = 12 * width * width * 3 * length + 32 * width * 16 + 64 * width * 64
    assert report["model_flops"] == 6 * products * rows + 3 * 4 * length**2 * width * 3 * rows
    assert report["hardware_flops"] >= report["model_flops"] * 0.9 and not report["uncounted"]
    assert {"all-gather", "all-reduce"} & set(report["collectives"])
    assert all(kind["sent"] > 0 for kind in report["collectives"].values())
    line = report["roofline"]
    assert 0 < line["least_seconds"] <= line["most_seconds"] and 0 < line["mfu_at_least_seconds"] <= 1
    assert report["not_checked"] == ["the vocabulary against not/there.model, which does not exist yet"]


@needs_libtpu
def test_a_sampler_is_planned_in_bfloat16_with_its_cache_and_its_rate(config):
    done = plan(config, "--json", "--sample", "4", "--candidates", "2", "--mesh", "data=2,tensor=2", "--no-search")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["fits"] and report["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2}
    layers, width, context, codes = 3, 128, 17, 63
    assert report["cache_bytes_per_prompt"] == 2 * layers * 2 * width * context * 2  # guided, keys and values, bfloat16
    assert report["cache_bytes_per_image"] == 2 * layers * 2 * width * codes * 2
    matrices = layers * 12 * width * width + 2 * 64 * width
    assert (
        matrices < report["weight_bytes"] < report["peak_bytes"] < report["room_bytes"]
    )  # 2 bytes on each of 2 devices
    assert report["largest_prompts"] is None
    least, most = report["images_per_second_per_chip"]
    assert 0 < least <= most and not report["uncounted"]
    days = 1e6 * 512 / (4 * most) / 86_400
    assert report["days_of_a_million_prompts"][0] == pytest.approx(days)


@needs_libtpu
def test_a_quick_plan_says_so_and_counts_the_same_flops(config):
    quick, full = (json.loads(plan(config, "--json", *flags).stdout) for flags in (["--quick"], []))
    assert quick["quick"] and not full["quick"]
    assert quick["model_flops"] == full["model_flops"] and quick["state_bytes"] == full["state_bytes"]
    assert 0.5 < quick["peak_bytes"] / full["peak_bytes"] < 2


@needs_libtpu
def test_flags_of_the_sampler_without_it_are_an_input_error(config):
    done = plan(config, "--candidates", "2")
    assert done.returncode == 2 and "--candidates: expected --sample with it" in done.stderr


@needs_libtpu
def test_a_batch_that_does_not_fit_exits_with_1_and_names_a_batch_and_a_slice_that_fit(config):
    done = plan(config, "--set", "data.batch_size=65536", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert not report["fits"] and report["peak_bytes"] > report["room_bytes"]
    found = report["largest_batch"]
    assert 0 < found["fits"] < found["does_not_fit"] <= 65536
    assert report["smallest_slice"]["topology"].startswith("v5e:")
    assert report["smallest_slice"]["peak_bytes"] <= report["room_bytes"]
    assert done.stderr.count("GiB on a device") >= 2  # a line for each compilation


@needs_libtpu
def test_a_state_that_does_not_fit_exits_with_1_without_compiling_the_step(config):
    changes = ("width=8192", "heads=128", "depth=40", "remat='full'")
    done = plan(config, "--json", "--no-search", *(flag for one in changes for flag in ("--set", f"task.model.{one}")))
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["peak_bytes"] == report["state_bytes"] > report["room_bytes"]
    assert report["compiled"] is False and report["initialisation_peak_bytes"] is None
    assert report["refused"].startswith("the state alone") and report["model_flops"] > 0


@needs_libtpu
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("mesh.fsdp=3", "expected at most 4 devices, got data=1, fsdp=3, tensor=2, which needs 6"),
        ("data.batch_size=7", "batch 'codes': expected dimension 'batch' of size 7"),
        ("task.model.width=127", "expected dimension 'embed' of size 127 to be a multiple of the mesh axes fsdp"),
    ],
)
def test_a_size_that_the_mesh_does_not_divide_is_an_input_error(config, change, says):
    done = plan(config, "--set", change, "--no-search")
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_one_line_names_the_extra(config):
    done = plan(config)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [done.stderr.strip()] and "-e '.[plan]'" in done.stderr
