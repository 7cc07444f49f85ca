"""Importing any module is silent and cheap: no output, no environment writes, no jax settings, no devices."""

import subprocess
import sys

from source_tree import ROOT, SOURCES, module

CHECK = """
import importlib, os, sys
import {libraries}
import jax._src.xla_bridge as bridge
before, values = dict(os.environ), dict(jax.config.values)
for name in {names!r}:
    importlib.import_module(name)
    assert not bridge._backends, f"{{name}} starts a jax backend"
    assert dict(os.environ) == before, f"{{name}} writes the environment"
    assert dict(jax.config.values) == values, f"{{name}} changes jax's settings"
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_importing_every_module_prints_nothing_and_has_no_side_effects():
    names = [module(path) for path in SOURCES if path.name != "__main__.py"]
    done = run(CHECK.format(libraries="jax, flax.nnx, optax, orbax.checkpoint, grain", names=names))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (done.stdout, done.stderr) == ("", "")


def test_help_and_a_wrong_command_import_no_jax():
    for arguments in (["--help"], ["nonsense"]):
        code = f"import sys; from dalle_jax.__main__ import main; main({arguments}); assert 'jax' not in sys.modules"
        done = run(code)
        assert "AssertionError" not in done.stderr
        assert done.returncode == 0, done.stderr


def test_the_config_reader_imports_no_jax():
    code = "import sys, dalle_jax.config.bind, dalle_jax.config.render; assert 'jax' not in sys.modules"
    assert run(code).returncode == 0


def test_the_package_imports_no_slow_modules():
    code = (
        "import sys, dalle_jax; dalle_jax.load; assert not {'jax', 'flax', 'numpy', 'PIL', 'etils'} & set(sys.modules)"
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
