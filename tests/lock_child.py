"""Hold a folder's lock in a process of its own: ``lock_child.py FOLDER MACHINE HOW``, until a line is read.

MACHINE is "here", or the name of another machine that the process then takes itself to be on. HOW it ends is "well",
"error", or "fork": then a forked child is terminated first.
"""

import os
import select
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dalle_jax import folder_lock
from dalle_jax.config.errors import UserError

if __name__ == "__main__":
    folder, machine, how = sys.argv[1:]
    if machine != "here":
        folder_lock.this_machine = lambda: machine
    try:
        with folder_lock.FolderLock(Path(folder), "train", renew_seconds=0.1, stale_seconds=1.0):
            print("held", flush=True)
            while not select.select([sys.stdin], [], [], 0.05)[0]:
                pass  # a signal that arrives just before a read that blocks would wait for its end
            sys.stdin.readline()
            if how == "error":
                raise ValueError("an error")
            if how == "fork":
                child = os.fork()
                if child == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                    os._exit(0)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                print(code, (Path(folder) / folder_lock.FILE).exists(), flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
