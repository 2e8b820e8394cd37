"""The house rules of the scripts, read from their text."""

import re
from pathlib import Path

import pytest

from shared.queue import scripts

STEPS = sorted(path for path in scripts.LUA.glob("*.lua") if path.stem != scripts.SHARED_BY_ALL)
every_step = pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)


def test_all_steps_are_here():
    assert {path.stem for path in STEPS} == {
        "enqueue", "claim", "heartbeat", "complete", "fail", "release", "cancel", "reap",
        "revive", "drop", "mode", "attend", "overview",
    }  # fmt: skip


@every_step
def test_a_step_declares_its_flags_and_needs_memory_only_to_add(path: Path):
    header = path.read_text().splitlines()[0]
    flags = {"enqueue": "", "revive": "", "overview": " flags=no-writes"}
    assert header == "#!lua" + flags.get(path.stem, " flags=allow-oom")


@every_step
def test_command_names_are_literal(path: Path):
    calls = re.findall(r"redis\.p?call\((.)", path.read_text())
    assert set(calls) <= {"'"}


@every_step
def test_no_clock_but_the_servers(path: Path):
    assert "os." not in path.read_text()
