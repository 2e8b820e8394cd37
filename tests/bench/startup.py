"""From `warmbase up --demo` to a first picture: how long each part takes, and how much memory it keeps.

    python tests/bench/startup.py [--runs 3]

Each run starts with an empty cache of downloads. The table shows medians.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import psutil

ROOT = Path(__file__).parents[2]
ADAPTER = "warmbase/outline"
BODY = {"inputs": "a red circle on a white background", "parameters": {"seed": 1}}

Measured = dict[str, tuple[float, str]]
"""What was measured -> value and unit."""


def measure() -> Measured:
    """Start the demo once, draw twice with one adapter, look at the memory, stop."""
    with tempfile.TemporaryDirectory() as downloads, demo(downloads) as process:
        started = time.monotonic()
        measured: Measured = {}
        url = ""
        assert process.stdout is not None
        for line in process.stdout:
            if part := re.fullmatch(r"\[(.+)\] ready in (.+) s\n", line):
                measured[f"{part[1]} ready"] = float(part[2]), "s"
            if found := re.match(r"Warmbase is ready .*: (\S+)", line):
                url = found[1]
                measured["all ready"] = time.monotonic() - started, "s"
                break
        else:
            raise SystemExit("the demo did not start")
        measured["picture of an adapter never used"] = draw(url), "s"
        measured["picture of the same adapter again"] = draw(url), "s"
        for child in psutil.Process(process.pid).children():
            if name := role(child):
                measured[f"{name} memory"] = child.memory_info().rss / 2**20, "MiB"
        stopping = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.wait()
        measured["all stopped"] = time.monotonic() - stopping, "s"
        return measured


@contextmanager
def demo(downloads: str) -> Iterator[subprocess.Popen[str]]:
    """Run `warmbase up --demo` with its downloads in a directory of its own."""
    command = [sys.executable, "-m", "deploy", "up", "--demo", "--port", "0"]
    environ = {**os.environ, "XDG_CACHE_HOME": downloads}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def draw(url: str) -> float:
    """Return the seconds that one picture takes a client."""
    request = Request(  # noqa: S310 - our own server
        f"{url}/models/{ADAPTER}",
        data=json.dumps(BODY).encode(),
        headers={"Content-Type": "application/json"},
    )
    started = time.monotonic()
    with urlopen(request, timeout=600) as answer:  # noqa: S310
        answer.read()
    return time.monotonic() - started


def role(child: psutil.Process) -> str:
    """Return what a child of the launcher is, empty for what is not measured."""
    words = child.cmdline()
    if words[-1] == "worker":
        return "worker " + child.environ()["WARMBASE_BASE"].partition("/")[2]
    return "router" if words[-1] == "router" else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(runs):
        for name, (value, unit) in measure().items():
            values[name, unit].append(value)
    print(f"| medians of {runs} | |\n|---|---|")
    for (name, unit), seen in values.items():
        print(f"| {name} | {statistics.median(seen):.1f} {unit} |")


if __name__ == "__main__":
    main()
