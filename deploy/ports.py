"""Ports to listen on: whether one is free, and free ones."""

import socket
from contextlib import ExitStack

from deploy.plan import LOOPBACK


class PortUnusable(Exception):
    """A port cannot be listened on; the message says why and what to do."""


def check_port(host: str, port: int) -> None:
    """Return if a server could listen on this address now.

    Raises:
        PortUnusable: it could not.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server will: closed ones linger
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise PortUnusable(
            f"cannot listen on {host} port {port}: {error.strerror}. "
            "Stop what uses it, or choose another with --port (0 takes a free one)."
        ) from error


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on, all different."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
