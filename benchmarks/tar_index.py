"""Time and memory of indexing a tar.

    python benchmarks/tar_index.py [--members 100000] [--folder DIR]

The script writes a tar of small members into a temporary folder, indexes it in a separate process, and reads records at
random.
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path


def write_tar(path: Path, members: int) -> None:
    """Write samples (an image of 2 to 6 kB, a caption, a JSON file) up to a number of members."""
    rng = random.Random(0)
    with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(members):
            key, kind = f"{number // 3:09d}", ("jpg", "txt", "json")[number % 3]
            content = {
                "jpg": lambda: rng.randbytes(rng.randint(2000, 6000)),
                "txt": lambda key=key: f"an image with the number {key}".encode(),
                "json": lambda key=key: json.dumps({"key": key, "width": 256, "height": 256}).encode(),
            }[kind]()
            info = tarfile.TarInfo(f"{key}.{kind}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            tar.members.clear()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(path: str) -> dict[str, float]:
    """Index a tar in a separate process and return its time, and its peak memory before and after."""
    from dalle_jax.data.files.ranges import find_file
    from dalle_jax.data.formats.tar_index import load_index
    from dalle_jax.data.sources.webdataset import WebDataset

    file = find_file(path)
    before = peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    found, _ = load_index(file)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    grown = peak_mib() - before
    start = time.perf_counter()
    records = WebDataset(files=(path,)).open()
    opening = time.perf_counter() - start
    order = random.Random(1).choices(range(len(records)), k=10_000)
    start = time.perf_counter()
    for one in order:
        records[one]
    return {
        "members": len(found.starts),
        "bytes": file.size,
        "index_bytes": os.path.getsize(path + ".index"),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "grown_mib": grown,
        "opening_seconds": opening,
        "records_per_second": len(order) / (time.perf_counter() - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "members.tar"
        write_tar(path, arguments.members)
        command = [sys.executable, __file__, "--measure", str(path)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(
        f"{found['members']:,} members, {found['bytes'] / 2**20:.0f} MiB; index {found['index_bytes'] / 2**20:.1f} MiB"
    )
    print(
        f"indexed in {found['seconds']:.2f} s ({found['cpu_seconds']:.2f} CPU s): "
        f"{found['members'] / found['seconds']:,.0f} members/s"
    )
    print(f"peak memory grew by {found['grown_mib']:.1f} MiB while indexing")
    print(f"opened again in {found['opening_seconds']:.2f} s; {found['records_per_second']:,.0f} records/s at random")


if __name__ == "__main__":
    main()
