"""XLA's compiler options in tests. Most of the suite's time is compilation of programs that run once.

None of these options changes an identity that is tested:

- LLVM optimises nothing, which halves the time;
- jaxlib before 0.11 takes the older way of writing loops, which halves it again;
- each program is one LLVM module: 32 modules, the default, take 13 to 25 % more CPU time for a step of a small model.
"""

from importlib.metadata import version

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
