"""XLA's compiler options in tests. Most of the suite's time is compilation of programs that run once.

LLVM is told not to optimise them, and jaxlib before 0.11, which still has the older way of writing loops, to take that:
each halves the time, and leaves every identity to be tested as it was.
"""

from importlib.metadata import version

QUICK = "--xla_backend_optimization_level=0"
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
