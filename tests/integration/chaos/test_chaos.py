"""The whole queue path under mischief: nothing is lost, doubled or swapped. `make chaos` does it longer."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Started, clean_environ, until

JOBS = 2000 if os.environ.get("CI") else 300
MINUTES = 6.0
"""A machine that is too slow for all jobs within these does fewer."""
PATIENCE = 600.0

StartChaos = Callable[..., Started]


@pytest.fixture
def start_chaos(tmp_path: Path) -> Iterator[StartChaos]:
    """Start `python -m tests.chaos`, with its folder among the test's."""
    started: list[Started] = []

    def start(*arguments: str) -> Started:
        command = [sys.executable, "-m", "tests.chaos", "--folder", str(tmp_path / "chaos"), *arguments]
        started.append(Started(command, clean_environ()))
        return started[-1]

    yield start
    for run in started:
        run.close()


@pytest.mark.timeout(PATIENCE + 60)
def test_nothing_is_lost_doubled_or_swapped(start_chaos: StartChaos) -> None:
    run = start_chaos("--jobs", str(JOBS), "--seed", "1", "--minutes", str(MINUTES))
    until(lambda: run.process.poll() is not None, PATIENCE, "the end of the run")

    assert run.end() == 0, run.output
    assert "nothing lost, doubled or swapped" in run.output
    assert run.survivors() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_short_leaves_no_process_behind(start_chaos: StartChaos, number: int) -> None:
    run = start_chaos("--jobs", "100000")
    until(lambda: "faults" in run.output, 120.0, "progress")
    assert len(run.survivors()) > 6

    run.signal(number)
    run.process.wait(60)
    until(lambda: not run.survivors(), 10.0, "the end of all that the run had started")
