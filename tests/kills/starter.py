"""Commands to be killed. Each line that is read names the processes of one run, which are forked after the imports.

A line is a JSON list of processes: the arguments of ``dalle_jax``, further environment variables, and a file for all
output. Printed are the numbers of the processes and, when all have ended, their exit codes (-9 for SIGKILL).
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dalle_jax.__main__ import run_process
from dalle_jax.commands import encode, import_, train

IMPORTED = (encode, import_, train)
"""The commands' modules, which the children then have."""


def run(arguments: list[str], variables: dict[str, str], log: str) -> None:
    """Run a command in this process, and end it."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.environ.update(variables)
    sys.argv = ["dalle_jax", *arguments]
    run_process()


for line in sys.stdin:
    started = []
    for process in json.loads(line):
        number = os.fork()
        if number == 0:
            run(*process)
        started.append(number)
    print(*started, flush=True)
    print(*(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in started), flush=True)
