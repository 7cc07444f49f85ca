"""No tracked file contains a path or a host of the machine that it was written on."""

import re
import subprocess

import pytest
from source_tree import ROOT

MACHINE = re.compile(
    rb"(?<![\w.<}/~])/(?:work|root|home/\w+|Users/\w+)/|\b(?!127\.)(?:\d{1,3}\.){3}\d{1,3}:\d+|\bindex-url\b|\bextra-index\b"
    rb"|https?://(?!(?:www\.)?(?:arxiv|github|huggingface|apache|w3|openai|localhost|127|example|pypi\.org)\b)"
    rb"[^/\s]*(?:pypi|simple|nexus|artifactory|mirror|proxy|registry)"
)
ALLOWED = {"tests/architecture/test_no_machine_paths.py"}


def test_no_tracked_file_contains_a_path_or_registry_of_a_single_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    named = []
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name in ALLOWED or not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            named += [f"{name}: {found.group().decode()}" for found in MACHINE.finditer(data)]
    assert not named, "\n".join(named)


@pytest.mark.parametrize(
    "text", [b"'/work/x'", b"cd /root/y", b" 10.1.2.3:3128", b"--index-url x", b"https://my.nexus.com/a"]
)
def test_the_check_finds_paths_and_registries(text: bytes):
    assert MACHINE.search(text)


@pytest.mark.parametrize(
    "text", [b"https://github.com/a/b", b"127.0.0.1:80", b"framework/x", b"~/work/x", b"https://pypi.org/project/jax"]
)
def test_the_check_accepts_general_paths_and_urls(text: bytes):
    assert not MACHINE.search(text)
