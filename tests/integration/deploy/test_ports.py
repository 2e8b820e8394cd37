import socket

import pytest

from deploy.ports import PortUnusable, check_port, free_ports


def test_a_free_port_may_be_used():
    (port,) = free_ports(1)
    check_port("127.0.0.1", port)


def test_a_taken_port_is_refused_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnusable, match=rf"127\.0\.0\.1 port {port}: .*in use.*--port"):
            check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(PortUnusable, match=r"192\.0\.2\.1"):
        check_port("192.0.2.1", 0)


def test_free_ports_differ():
    assert len(set(free_ports(20))) == 20
