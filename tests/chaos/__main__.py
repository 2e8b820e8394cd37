"""`python -m tests.chaos`: a seeded run of the whole queue path under mischief, and the verdict on it.

Exit codes: 0 nothing was wrong, 1 something was, 2 the run could not be made.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.clients import Clients
from tests.chaos.history import History, read
from tests.chaos.mischief import Mischiefs
from tests.chaos.plan import calls, faults, last_calls
from tests.chaos.queue_log import read_queue_log
from tests.chaos.stage import LEASE, REQUEST_TIMEOUT, Stage, a_stage

PROGRESS_EVERY = 5.0
MOST_SHOWN = 20
LAST_CALLS = 20
"""For each worker, to see that it works again."""


async def play(folder: Path, arguments: argparse.Namespace) -> Path:
    """Make the run; return its history. SIGTERM ends it as Ctrl-C does: all that was started ends first."""
    playing = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    with History(folder / "history.jsonl") as history:
        history.note(
            "run",
            seed=arguments.seed,
            jobs=arguments.jobs,
            lease=LEASE,
            timeout=REQUEST_TIMEOUT,
            workers=arguments.workers,
        )
        sizes = {"routers": arguments.routers, "workers": arguments.workers}
        async with a_stage(folder, history, **sizes) as stage:
            await _perform(stage, arguments)
            stage.server.kill()
            note_what_stage_knows(stage, history)
    return history.path


async def _perform(stage: Stage, arguments: argparse.Namespace) -> None:
    clients = Clients(stage, stage.history)
    planned = calls(arguments.seed, arguments.jobs, arguments.routers)
    mischiefs = Mischiefs(stage, faults(arguments.seed, arguments.calm), lambda: clients.answered)
    telling = asyncio.create_task(_tell(clients, mischiefs, arguments.jobs))
    try:
        async with asyncio.TaskGroup() as group:
            making = group.create_task(mischiefs.run())
            await clients.run(planned, arguments.clients, 60 * arguments.minutes)
            mischiefs.stop()
            await making
    finally:
        telling.cancel()
    await stage.all_are_there()
    stage.history.note("calm", pids={worker.name: worker.process.pid for worker in stage.workers})
    last = last_calls(arguments.seed, arguments.jobs, LAST_CALLS * arguments.workers)
    await clients.run(last, arguments.clients, 60.0)
    await stage.settled()
    await stage.leave()


async def _tell(clients: Clients, mischiefs: Mischiefs, jobs: int) -> None:
    begin = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_EVERY)
        seconds = time.monotonic() - begin
        print(f"{seconds:5.0f} s: {clients.answered} of {jobs}, {mischiefs.done} faults", flush=True)


def note_what_stage_knows(stage: Stage, history: History) -> None:
    """Add the queue's account, the workers' draws, and what the processes complained about."""
    for event in read_queue_log(stage.server.folder):
        history.note(**event)
    for file in sorted(stage.folder.glob("draws-*.jsonl")):
        for draw in read(file):
            history.note("drawn", **draw)
    for place in stage.places:
        for line in place.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if (complaint := _complaint(line)) is not None:
                history.note("complaint", process=place.name, what=complaint)


def _complaint(line: str) -> str | None:
    """Return what is wrong with a process, when a line of its log says so."""
    if not line.startswith("{"):
        return line
    said = json.loads(line)
    if said["level"] in {"error", "critical"}:
        return f"{said['message']} {said.get('exception', '')}"
    return None


def report(history: Path) -> int:
    """Print the verdict on a history; return the exit code."""
    verdict = check(read(history))
    for name, figure in verdict.figures.items():
        print(f"{name:46}{figure}")
    for wrong in verdict.wrongs[:MOST_SHOWN]:
        print(f"WRONG {wrong.kind}: {wrong.what}")
    if verdict.wrongs:
        print(f"{len(verdict.wrongs)} wrongs in {history}")
        return 1
    print(f"nothing lost, doubled or swapped: {history}")
    return 0


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=64, help="at the same time")
    parser.add_argument("--routers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--calm", type=int, default=1, help="times as many answers between two faults")
    parser.add_argument("--minutes", type=float, default=60.0, help="after these no further job is begun")
    parser.add_argument("--folder", type=Path, help="for history and logs; emptied [build/chaos/SEED]")
    parser.add_argument("--check", type=Path, help="only check this history")
    arguments = parser.parse_args()
    if arguments.check:
        return report(arguments.check)
    folder = (arguments.folder or Path("build/chaos", str(arguments.seed))).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"seed {arguments.seed}, {arguments.jobs} jobs; logs in {folder}", flush=True)
    return report(asyncio.run(play(folder, arguments)))


if __name__ == "__main__":
    sys.exit(_main())
