"""Real servers with settings of their own, alone or together: replicas, Sentinels, a cluster."""

import contextlib
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from deploy.embedded_valkey import find_binary
from deploy.parent_death import with_parent

PATIENCE = 20.0


@dataclass(slots=True)
class Server:
    """A server of its own. An async test may use it as it stands: its methods are quick."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]
    clients: list[redis.Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A plain client of the user `default`."""
        if not self.clients:
            self.clients.append(redis.Redis(port=self.port, retry=None, socket_timeout=5))
        return self.clients[0]

    @property
    def role(self) -> str:
        """`master` or `slave`; empty while that changes, because it drops its clients then."""
        with contextlib.suppress(redis.ConnectionError):
            return str(self.client.info("replication")["role"])
        return ""

    def kill(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it after `kill` with what its folder holds. It answers a little later: `answers` tells."""
        self.process = _spawn(self.process.args, self.folder)

    def answers(self) -> bool:
        """Whether it does, be it only to say that it wants a password."""
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(redis.ConnectionError):
            try:
                return bool(self.client.ping())
            except redis.AuthenticationError:
                return True
        return False


class Servers:
    """Starts servers in a folder, and kills them all at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: list[Server] = []

    def start(self, *lines: str, mode: tuple[str, ...] = (), port: int | None = None) -> Server:
        """Start a server with these lines of configuration and return it once it answers."""
        port = port or free_port()
        folder = self._folder / str(port)
        folder.mkdir()
        configuration = folder / "server.conf"
        text = "\n".join((f"port {port}", "bind 127.0.0.1", f"dir {folder}", *lines))
        configuration.write_text(text + "\n", encoding="utf-8")
        command = with_parent([find_binary(), str(configuration), *mode])
        server = Server(port, folder, _spawn(command, folder))
        self.all.append(server)
        until(server.answers, (folder / "log").read_text)
        return server

    def start_sentinel(self, primary: Server, service: str = "queue") -> Server:
        """Start a Sentinel that alone decides, and quickly."""
        return self.start(
            f"sentinel monitor {service} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {service} 500",
            f"sentinel failover-timeout {service} 3000",
            mode=("--sentinel",),
        )

    def start_cluster(self, *lines: str) -> Server:
        """Start a cluster of one node that has all slots."""
        # else it is the other port and 10000, which need not be a port
        node = self.start("cluster-enabled yes", f"cluster-port {free_port()}", 'save ""', *lines)
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: "cluster_state:ok" in str(node.client.execute_command("CLUSTER", "INFO")))
        return node

    @staticmethod
    def fail_over(sentinel: Server, service: str = "queue") -> None:
        """Have the replica promoted while the primary lives."""
        until(lambda: _begun(sentinel, service))

    def kill_all(self) -> None:
        for server in self.all:
            server.kill()


def until(true, told=lambda: "") -> None:
    """Wait until `true()`."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def _begun(sentinel: Server, service: str) -> bool:
    with contextlib.suppress(redis.ResponseError):  # it does not know yet how far the replica is
        return bool(sentinel.client.execute_command("SENTINEL", "FAILOVER", service))
    return False


def _spawn(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
