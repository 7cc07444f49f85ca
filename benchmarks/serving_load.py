"""Load on a server of its own process: equal images, latency, a burst, slow readers, and a stop under load.

    python benchmarks/serving_load.py --model runs/demo --compiled FOLDER [--only load burst] [--json FILE]

It prints one line per measurement, and ends with exit code 1 if a request was lost or an image differs.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

import httpx
from serving_client import Answered, from_sockets

PARTS = ("start", "load", "partial", "burst", "slow", "mixed", "batching")
PROMPTS = ("a red circle", "a blue square above a green triangle", "a yellow star", "two small purple circles")


@dataclass
class Report:
    """The figures; ``faults`` are sentences about what must not happen."""

    figures: dict[str, float | str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, name: str, value: float | str) -> None:
        self.figures[name] = round(value, 4) if isinstance(value, float) else value
        print(f"{name}: {self.figures[name]}", flush=True)

    def check(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)
            print(f"FAULT: {fault}", flush=True)


class Server:
    """A server process on a free port, ready for requests."""

    def __init__(self, model: str, *flags: str) -> None:
        command = [sys.executable, "-m", "dalle_jax", "serve", "--model", f"load={model}", "--port", "0", *flags]
        begin = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            time.sleep(0.02)
        self.seconds_to_ready = time.monotonic() - begin

    def metrics(self) -> dict[str, float]:
        text = httpx.get(f"{self.url}/metrics").text
        return {name: float(value) for name, value in re.findall(r"^(dalle_jax_\S+) (\S+)$", text, re.MULTILINE)}

    def memory(self) -> float:
        """Return the resident memory in MB."""
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def processor_seconds(self) -> float:
        """Return the seconds that the process has spent on all cores."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def body(seed: int, **changes: object) -> dict[str, object]:
    return {"prompt": PROMPTS[seed % len(PROMPTS)], "model": "load", "seed": seed} | changes


async def ask(client: httpx.AsyncClient, seed: int, **changes: object) -> Answered:
    begin = time.monotonic()
    try:
        answer = await client.post("/v1/images/generations", json=body(seed, **changes))
    except httpx.TransportError:
        return Answered(seed, 0, time.monotonic() - begin, None)
    seconds = time.monotonic() - begin
    image = answer.json()["data"][0]["b64_json"] if answer.status_code == 200 else None
    return Answered(seed, answer.status_code, seconds, image, answer.headers.get("retry-after"))


async def from_clients(server: Server, clients: int, seeds: list[int], **changes: object) -> list[Answered]:
    """Let ``clients`` ask for the images of all seeds, each for one after the other."""
    return await asyncio.to_thread(from_sockets, server.url, clients, seeds, lambda seed: body(seed, **changes))


def percentiles(answers: list[Answered]) -> tuple[float, float]:
    times = sorted(one.seconds for one in answers)
    return statistics.median(times), times[min(len(times) - 1, int(0.99 * len(times)))]


async def with_engine_seconds(server: Server, clients: int, seeds: list[int]) -> tuple[list[Answered], float]:
    """Return the answers, and the seconds that the engine says it spent on them, waiting included."""
    names = ("dalle_jax_job_seconds_sum", "dalle_jax_wait_seconds_sum")
    before = server.metrics()
    answers = await from_clients(server, clients, seeds)
    after = server.metrics()
    return answers, sum(after[name] - before.get(name, 0.0) for name in names)


async def measure_load(server: Server, report: Report) -> None:
    """200 requests of 20 clients are equal to the same requests alone."""
    seeds = list(range(1, 201))
    alone, spent = await with_engine_seconds(server, 1, seeds)
    p50, p99 = percentiles(alone)
    report.add("alone, p50 s", p50)
    report.add("alone, p99 s", p99)
    report.add("alone, the engine's own ms per request (job and wait)", 1000 * spent / len(seeds))
    report.add("alone, ms that HTTP adds to a request", 1000 * (sum(one.seconds for one in alone) - spent) / len(seeds))
    begin = time.monotonic()
    together, spent = await with_engine_seconds(server, 20, seeds)
    seconds = time.monotonic() - begin
    wall = sum(one.seconds for one in together)
    report.add("20 clients, overhead of HTTP as a share of the engine's time", wall / spent - 1)
    p50, p99 = percentiles(together)
    report.add("20 clients, p50 s", p50)
    report.add("20 clients, p99 s", p99)
    report.add("20 clients, images per minute", 60 * len(seeds) / seconds)
    images = {one.seed: one.image for one in alone}
    report.check(all(one.status == 200 for one in (*alone, *together)), "a request of the load was lost")
    different = [one.seed for one in together if one.image != images[one.seed]]
    report.check(
        not different, f"{len(different)} images differ from their solo images, such as of seed {different[:3]}"
    )
    report.add("20 clients, images equal to their solo images", f"{len(seeds) - len(different)} of {len(seeds)}")


async def measure_first_partials(server: Server, report: Report) -> None:
    """The same for one image, and for the best of four."""
    for candidates in (1, 4):
        await measure_first_partial(server, report, candidates)


async def measure_first_partial(server: Server, report: Report, candidates: int) -> None:
    """When the first partial image comes, as a share of the time of the image, alone."""
    shares, firsts = [], []
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        for seed in range(20):
            begin, first = time.monotonic(), None
            given = body(seed, stream=True, partial_images=3, candidates=candidates)
            async with client.stream("POST", "/v1/images/generations", json=given) as answer:
                async for line in answer.aiter_lines():
                    if first is None and line.startswith("event: image_generation.partial_image"):
                        first = time.monotonic() - begin
            assert first is not None
            firsts.append(1000 * first)
            shares.append(first / (time.monotonic() - begin))
    report.add(f"first partial image, best of {candidates}, ms (median of 20)", statistics.median(firsts))
    report.add(f"first partial image, best of {candidates}, share of the latency", statistics.median(shares))


async def measure_burst(server: Server, report: Report, burst: int, queue: int) -> None:
    """Of a burst some are drawn, and all others are told when to come back."""
    limits = httpx.Limits(max_connections=burst)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        found = await asyncio.gather(*(ask(client, 1000 + number, n=2) for number in range(burst)))
    drawn = [one for one in found if one.status == 200]
    refused = [one for one in found if one.status == 429]
    report.add(f"burst of {burst} at a queue of {queue}", f"{len(drawn)} drawn, {len(refused)} refused with 429")
    report.check(len(drawn) + len(refused) == burst, "a request of the burst was lost")
    report.check(all(one.retry_after for one in refused), "a 429 without retry-after")


async def measure_slow_readers(server: Server, report: Report, readers: int = 30) -> None:
    """Clients that read nothing do not hold up the others."""
    host, port = server.url.removeprefix("http://").split(":")
    seeds = list(range(1, 61))
    quick = percentiles(await from_clients(server, 4, seeds))[0]
    writers = []
    for seed in range(readers):
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        content = json.dumps(body(seed, stream=True, partial_images=3, n=4, size="512x512")).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        writers.append(writer)
    while await asyncio.to_thread(lambda: server.metrics()["dalle_jax_batch_images"]):
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)  # until their images are encoded and the sockets are full
    p50 = percentiles(await from_clients(server, 4, seeds))[0]
    for writer in writers:
        writer.transport.abort()
    report.add("4 clients, p50 s", quick)
    report.add(f"4 clients beside {readers} that read nothing, p50 s", p50)


async def measure_cancellations(server: Server, report: Report, seconds: float) -> None:
    """Mixed load with disconnects leaves the memory flat."""
    end, counts = time.monotonic() + seconds, {"drawn": 0, "given up": 0}
    samples = []

    async def work(number: int) -> None:
        step = 0
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            while time.monotonic() < end:
                step += 1
                seed = 10_000 * number + step
                if (number + step) % 3:
                    counts["drawn"] += (await ask(client, seed, n=1 + step % 3)).status == 200
                    continue
                try:
                    await asyncio.wait_for(ask(client, seed, n=8), 0.05)
                except TimeoutError:
                    counts["given up"] += 1

    async def watch() -> None:
        while time.monotonic() < end:
            samples.append(round(server.memory()))
            await asyncio.sleep(min(60, seconds / 4))

    await asyncio.gather(watch(), *(work(number) for number in range(8)))
    report.add(f"mixed load of {seconds:.0f} s", f"{counts['drawn']} drawn, {counts['given up']} given up")
    report.add("its memory by the minute, MB", " ".join(map(str, [*samples, round(server.memory())])))


async def measure_stop(server: Server, report: Report) -> None:
    """After SIGTERM the accepted requests finish, and new ones are refused."""

    def taken() -> float:
        metrics = server.metrics()
        return metrics["dalle_jax_wait_seconds_count"] + metrics["dalle_jax_queue_jobs"]

    before = taken()
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        accepted = [asyncio.ensure_future(ask(client, seed, n=4)) for seed in range(40)]
        while await asyncio.to_thread(taken) < before + 40:
            await asyncio.sleep(0.001)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        try:
            late = await ask(client, 999)
            refused = late.status in (0, 503)
        except httpx.TransportError:
            refused = True
        found = await asyncio.gather(*accepted)
    code = await asyncio.to_thread(server.process.wait, 120)
    finished = sum(one.status == 200 for one in found)
    report.add("SIGTERM with 40 requests in flight", f"{finished} finished, exit code {code}")
    report.check(finished == 40, "an accepted request was lost at SIGTERM")
    report.check(refused, "a request after SIGTERM was not refused")
    report.check(code == 0, f"exit code {code} after SIGTERM")


async def measure_batching(model: str, flags: list[str], report: Report, rounds: int = 3) -> None:
    """8 clients of a running batch beside one image at a time, for requests of 1 and of 4 candidates, in turns."""
    kinds = {"one at a time": ["--batch", "1"], "running batch": []}
    servers = {name: Server(model, *own, *flags) for name, own in kinds.items()}
    for server in servers.values():
        await from_clients(server, 8, list(range(16)))
    for candidates in (1, 4):
        seeds, took = list(range(120 // candidates)), dict.fromkeys(kinds, 0.0)
        images, spent = rounds * candidates * len(seeds), dict.fromkeys(kinds, 0.0)
        for _ in range(rounds):
            for name, server in servers.items():
                begin, before = time.monotonic(), server.processor_seconds()
                await from_clients(server, 8, seeds, candidates=candidates)
                took[name] += time.monotonic() - begin
                spent[name] += server.processor_seconds() - before
        for name, seconds in took.items():
            title = f"8 clients, {candidates} candidates, {name}"
            report.add(f"{title}: images drawn per minute", 60 * images / seconds)
            report.add(f"{title}: ms of the processor per image", 1000 * spent[name] / images)
        gain = took["one at a time"] / took["running batch"]
        report.add(f"running batch beside one at a time, {candidates} candidates", gain)
    for server in servers.values():
        server.stop()


def main() -> int:
    """Measure the chosen parts, print them, and return 1 if a part found a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--compiled", required=True, help="an empty folder for compiled programs")
    parser.add_argument("--seconds", type=float, default=60.0, help="time of the mixed load")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to measure")
    parser.add_argument("--json")
    args = parser.parse_args()
    report, flags = Report(), ["--compiled", args.compiled]
    if "start" in args.only:
        first = Server(args.model, *flags)
        report.add("first start until ready, s", first.seconds_to_ready)
        first.stop()
    server = Server(args.model, *flags)
    report.add("second start until ready, s", server.seconds_to_ready)
    report.add("memory after the start, MB", server.memory())
    measures = {
        "load": lambda: measure_load(server, report),
        "partial": lambda: measure_first_partials(server, report),
        "burst": lambda: measure_burst(server, report, 300, 64),
        "slow": lambda: measure_slow_readers(server, report),
        "mixed": lambda: measure_cancellations(server, report, args.seconds),
    }
    for name, measure in measures.items():
        if name in args.only:
            asyncio.run(measure())
    asyncio.run(measure_stop(server, report))
    if "batching" in args.only:
        asyncio.run(measure_batching(args.model, flags, report))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(asdict(report), file, indent=1)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
