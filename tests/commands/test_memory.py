"""Freed memory is reused: the second of two large blocks causes no page faults."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from dalle_jax.commands.memory import keep_large_buffers
keep_large_buffers()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(2**26))
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")


def faults_of_the_second_block(**variables: str) -> int:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean | variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@glibc
def test_a_large_freed_block_is_reused_without_page_faults():
    assert faults_of_the_second_block(JAX_PLATFORMS="cpu") < 100


@glibc
def test_settings_of_the_user_for_the_allocator_take_precedence():
    assert faults_of_the_second_block(JAX_PLATFORMS="cpu", MALLOC_TOP_PAD_="131072") > 1000
    assert faults_of_the_second_block(JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.mmap_max=65536") > 1000


@glibc
def test_a_user_setting_of_huge_pages_alone_keeps_our_other_settings():
    assert faults_of_the_second_block(JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.hugetlb=1") < 100
