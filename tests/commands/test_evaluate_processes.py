"""``evaluate --images`` on eight devices, and in two processes, gives the figures of one device."""

import json

import pytest

from tests.command_processes import finish, start_processes, start_python
from tests.evaluate.suites.image_files import write_images

pytestmark = pytest.mark.slow


def figures(path):
    """Return value, interval and count of each figure of a JSON file, by network and name."""
    content = json.loads(path.read_text())["images"]
    networks = {name: content[name] for name in ("clip", "captions")}
    return {
        (network, name): [figure["value"], *figure["interval_95"], figure["count"]]
        for network, found in networks.items()
        for name, figure in found.items()
    }


def test_devices_and_processes_do_not_change_figures(smoke_demo, tmp_path):
    folders = [write_images(tmp_path / f"set{i}", 230, seed=i, size=32, shift=60 * i) for i in range(2)]
    clip = str(smoke_demo / "clip")

    def command(name, statistics):
        out = ["--statistics", str(tmp_path / statistics), "--out", str(outs[name])]
        sets = ["--images", str(folders[1]), "--against", str(folders[0]), "--distances", "kid,mind,neighbours"]
        return ["-m", "dalle_jax", "evaluate", *sets, "--features", f"clip:{clip}", "--clip", clip, *out]

    outs = {name: tmp_path / f"{name}.json" for name in ("one", "eight", "two", "kept")}
    started = [start_python(command("one", "a")), start_python(command("eight", "b"), devices=8)]
    for code, out, error in finish([*started, *start_processes([command("two", "c")] * 2)]):
        assert code == 0 and "read from" not in out, error[-2000:]
    first, second = finish(start_processes([command("kept", "c")] * 2))
    assert (first[0], second[0]) == (0, 0) and "features of clip read from" in first[1], first[2][-2000:]
    one, eight, two, kept = (figures(path) for path in outs.values())
    assert {name for _, name in one} >= {"kid", "mind", "recall", "clip_score", "retrieval_top1"}
    for found in (eight, two, kept):
        assert found.keys() == one.keys()
        for name, numbers in found.items():
            # a CLIP of two steps sees captions nearly alike, so that rounding decides the rank of some
            tolerance = 0.02 if name[1].startswith("retrieval") else 1e-6
            assert numbers == pytest.approx(one[name], rel=1e-6, abs=tolerance), name
