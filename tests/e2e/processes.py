"""Processes under test: what they print, what they start, what they leave behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from redis import Redis

from deploy.parent_death import with_parent
from deploy.plan import ChildSpec
from shared.queue.keys import PREFIX
from tests.e2e.client import is_ready
from tests.servers import valkey

ROOT = Path(__file__).parents[2]
START_SECONDS = 240.0
END_SECONDS = 90.0


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return once `condition` holds; fail the test if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def clean_environ() -> dict[str, str]:
    """Return the environment without what a person may have set for a Warmbase of their own.

    The embedded server is the one that all tests run on, whichever else is on PATH.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("WARMBASE_", "REDIS_"))}
    path = f"{valkey().parent}{os.pathsep}{own.get('PATH', os.defpath)}"
    return {**own, "PYTHONPATH": str(ROOT), "PATH": path}


class Started:
    """A process with its output, in a session of its own: all that it starts can be found by that."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._reads_no_more = False
        self.process = subprocess.Popen(
            with_parent(command),
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with self._output:
            for line in self._output:
                self.lines.append(line.decode().rstrip("\n"))
                if self._reads_no_more:
                    return

    def stop_reading(self) -> None:
        """Read one more line, then close the pipe."""
        self._reads_no_more = True

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Return the exit code once it has ended; fail if it does not."""
        code = self.process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        return code

    def survivors(self) -> list[psutil.Process]:
        """Return the live processes of its session: itself and all that it started, at any depth."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS)
        for process in self.survivors():
            process.kill()
        self.process.wait()
        self._reader.join()


class Up(Started):
    """A `warmbase up` on a free port."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        command = [sys.executable, "-m", "deploy", "up", "--port", "0", *arguments]
        super().__init__(command, {**clean_environ(), **environ})

    def ready(self) -> "Up":
        """Return once it says that it is ready."""
        until(lambda: self._found() or self.process.poll() is not None, START_SECONDS, "ready")
        assert self._found(), self.output
        return self

    def _found(self) -> re.Match[str] | None:
        return re.search(r"^Warmbase is ready .*: (\S+)$(?=[\s\S]*Ctrl-C)", self.output, re.MULTILINE)

    @property
    def url(self) -> str:
        found = self._found()
        assert found, self.output
        return found[1]

    def child(self, *words: str) -> psutil.Process:
        """Return its only child whose command line or environment says all of `words`."""

        def says(process: psutil.Process) -> bool:
            text = [*process.cmdline(), *(f"{key}={value}" for key, value in process.environ().items())]
            return all(word in text for word in words)

        (found,) = [process for process in psutil.Process(self.process.pid).children() if says(process)]
        return found

    @property
    def redis_url(self) -> str:
        return self.child("router").environ()["REDIS_URL"]


@contextmanager
def started_specs() -> Iterator[Callable[..., None]]:
    """Give what starts children of the launcher without the launcher, and returns once they are ready."""
    running: list[Started] = []

    def start(*specs: ChildSpec) -> None:
        running.extend(Started(spec.argv, spec.environ) for spec in specs)
        for spec, started in zip(specs, running[-len(specs) :], strict=True):
            until(lambda spec=spec: is_ready(spec.ready_url), START_SECONDS, f"{spec.name} is ready")
            assert started.process.poll() is None, started.output

    try:
        yield start
    finally:
        for started in reversed(running):
            started.close()


def busy_workers(redis_url: str) -> list[int]:
    """Return the process ids of the workers that run a job, from the records in Redis."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        records = [redis.hgetall(key) for key in redis.scan_iter(f"{PREFIX}:*:job:*")]
    # A worker's id is its machine's name, its process id, and a random part.
    return [int(record["worker"].split("-")[-2]) for record in records if record.get("status") == "running"]
