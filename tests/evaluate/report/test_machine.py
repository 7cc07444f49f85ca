import getpass
import json
import platform
import socket
from pathlib import Path

import jax

from dalle_jax.evaluate.report.machine import this_machine


def test_the_description_names_neither_machine_nor_user():
    machine = this_machine()
    assert 1 <= machine.cores <= machine.cores_total
    assert machine.cpu
    assert machine.accelerators is None  # the tests run on the CPU
    assert machine.memory_gib is None or machine.memory_gib > 0
    assert machine.versions["python"] == platform.python_version()
    assert machine.versions["jax"] == jax.__version__
    text = json.dumps(machine.to_json())
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4
    assert f"/{getpass.getuser()}/" not in text


def test_a_system_without_proc_has_a_processor(monkeypatch):
    original = Path.read_text

    def missing(self, *args, **kwargs):
        if str(self).startswith(("/proc", "/sys")):
            raise FileNotFoundError(str(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", missing)
    machine = this_machine()
    assert machine.cpu
    assert machine.memory_gib is None or machine.memory_gib > 0
