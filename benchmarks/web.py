"""The web application under 50 clients for a minute: what they wait, and what it grows by.

Each client asks again as soon as it is answered: mostly questions that were asked before, now and
then a new one, now and then nonsense. ``run("10")`` does it for ten seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

CLIENTS = 50
SEED = 0
NEW, NONSENSE = 0.005, 0.01
"""Shares of questions that nobody asked before, and of links that are none."""
START_S = 600.0
TRAINING = {
    "training.seq_len": "8192",
    "training.global_batch_seqs": "256",
    "training.tokens": "1T",
    "parallel.zero_stage": "3",
}
BAD = (
    "/train?model.name=../../etc/passwd",
    "/train/answer?cluster.count=1000000000",
    "/serve/answer?model.name=%3Cscript%3Ealert(1)%3C/script%3E",
    "/serve/answer.json?money.pue=nan",
    "/static/..%2fapp.py",
)


class Tally:
    """What clients saw."""

    def __init__(self) -> None:
        self.known_s: list[float] = []
        self.new_s: list[float] = []
        self.refused = 0
        self.errors: list[str] = []


def run(seconds: str = "60") -> dict[str, float]:
    """Return requests, waits in milliseconds, errors and memory in MiB."""
    code = "from ridgeline.cli import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "web", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        port = _port(server)
        return asyncio.run(_measure(port, server.pid, float(seconds)))
    finally:
        server.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        server.kill()


def _port(server: subprocess.Popen[str]) -> int:
    assert server.stderr is not None
    begun = time.monotonic()
    for line in server.stderr:
        found = re.search(r"ready: http://\S+?:(\d+)", line)
        if found:
            return int(found[1])
        if time.monotonic() - begun > START_S:
            break
    raise SystemExit("web: the server did not start")


def _links() -> list[str]:
    links = []
    for model in ("llama3.1-8b", "qwen3-8b"):
        for device in ("h100-sxm", "h200-sxm", "b200-sxm", "mi300x"):
            for count in ("32", "64"):
                hardware = {"cluster.accelerator": device, "cluster.count": count}
                links.append("?" + urlencode({"model.name": model, **hardware, **TRAINING}))
    return links


async def _measure(port: int, pid: int, seconds: float) -> dict[str, float]:
    known = [f"/train/answer{query}" for query in _links()]
    known += [f"/train{query}" for query in _links()[:4]] + ["/serve", "/serve/answer"]
    first = Tally()
    visitor = Visitor(port, first)
    for link in known:
        await visitor.ask(link, first.known_s)
    visitor.leave()
    tally, before, cpu_s = Tally(), _resident_mib(pid), _cpu_s(pid)
    end = time.monotonic() + seconds
    memory: list[float] = []
    watch = asyncio.ensure_future(_watch(pid, memory))
    await asyncio.gather(*(_client(port, number, known, end, tally) for number in range(CLIENTS)))
    watch.cancel()
    cpu_s = _cpu_s(pid) - cpu_s
    waits = sorted(tally.known_s)
    errors = first.errors + tally.errors
    for line in errors[:5]:
        print(line, file=sys.stderr)
    third = max(1, len(memory) // 3)
    return {
        "requests": len(waits) + len(tally.new_s) + tally.refused,
        "requests_per_s": (len(waits) + len(tally.new_s) + tally.refused) / seconds,
        "server_cpu_ms_per_request": 1e3 * cpu_s / max(1, len(waits)),
        "errors": len(errors),
        "refused": tally.refused,
        "known_median_ms": 1e3 * statistics.median(waits),
        "known_p99_ms": 1e3 * waits[int(0.99 * len(waits))],
        "new_questions": len(tally.new_s),
        "new_median_ms": 1e3 * statistics.median(tally.new_s) if tally.new_s else 0.0,
        "memory_before_mib": before,
        "memory_first_third_mib": statistics.mean(memory[:third]),
        "memory_last_third_mib": statistics.mean(memory[-third:]),
    }


async def _client(port: int, number: int, known: list[str], end: float, tally: Tally) -> None:
    draw = random.Random(SEED + number)
    visitor = Visitor(port, tally)
    while time.monotonic() < end:
        chance = draw.random()
        if chance < NEW:
            price = f"&money.usd_per_accelerator_hour={1 + draw.random():.6f}"
            await visitor.ask(draw.choice(known[: len(known) // 2]) + price, tally.new_s)
        elif chance < NEW + NONSENSE:
            await visitor.ask(draw.choice(BAD), None)
        else:
            await visitor.ask(draw.choice(known), tally.known_s)
    visitor.leave()


class Visitor:
    """A browser: one connection, kept while the server keeps it."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port, self._tally = port, tally
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, link: str, waits: list[float] | None) -> None:
        """Ask once; ``waits`` is None where the link must be refused."""
        begun = time.monotonic()
        try:
            status = await self._status(link)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._tally.errors.append(f"{link}: {error}")
            self.leave()
            return
        if waits is None and status in ("400", "404"):
            self._tally.refused += 1
        elif waits is not None and status == "200":
            waits.append(time.monotonic() - begun)
        else:
            self._tally.errors.append(f"{link}: {status}")

    async def _status(self, link: str) -> str:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {link} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        found = re.search(r"content-length: (\d+)", head)
        await self._reader.readexactly(int(found[1]) if found else 0)
        if "connection: close" in head:
            self.leave()
        return head[9:12]

    def leave(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def _watch(pid: int, memory: list[float]) -> None:
    while True:
        memory.append(_resident_mib(pid))
        await asyncio.sleep(1.0)


def _cpu_s(pid: int) -> float:
    """Return CPU seconds of a process, without its children; 0 where /proc does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    """Return the memory of a process and its children, MiB; 0 where /proc does not say."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0.0
    pages = 0
    for one in (str(pid), *children):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
