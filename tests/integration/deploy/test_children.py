import asyncio
import signal
import sys

import psutil
import pytest

from deploy.children import TAIL_LINES, Child
from deploy.plan import ChildSpec, Role


@pytest.fixture
async def start():
    """Starts a Python child that runs the given code; `child.seen` collects its lines."""
    running = []

    async def start(code, grace=30.0):
        spec = ChildSpec(
            role=Role.HUB,
            name="child",
            argv=(sys.executable, "-u", "-c", code),
            environ={},
            ready_url="",
            grace=grace,
        )
        seen = []
        child = await Child.start(spec, lambda _, line: seen.append(line))
        running.append(child)
        return child, seen

    yield start
    for child in running:
        child.kill()
        await child.wait()


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event: a process changes it
            await asyncio.sleep(0.01)


async def test_it_returns_the_exit_code_once_all_output_is_read(start):
    child, seen = await start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)")
    assert await child.wait() == 5
    assert seen == ["out", "err"]


async def test_a_line_is_seen_while_the_child_runs(start):
    _, seen = await start("print('now'); import time; time.sleep(60)")
    await until(lambda: seen == ["now"])


async def test_long_lines_progress_bars_and_broken_text_do_no_harm(start):
    code = r"import sys; w = sys.stdout.buffer.write; w(b'x' * 3_000_000 + b'\n1\r2\r\n3\n\xff'); sys.exit(0)"
    child, seen = await start(code)
    await child.wait()
    assert len("".join(seen[:-4])) == 3_000_000
    assert seen[-4:] == ["1", "2", "3", "\ufffd"]


async def test_the_last_lines_are_kept(start):
    child, _ = await start(f"for i in range({TAIL_LINES + 5}): print(i)")
    await child.wait()
    assert list(child.tail) == [str(i) for i in range(5, TAIL_LINES + 5)]


async def test_stopping_asks_first(start):
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print('up'); signal.pause()"
    child, seen = await start(code)
    await until(lambda: seen)
    assert await child.stop() == 3


async def test_stopping_kills_after_the_grace(start):
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up'); [signal.pause() for _ in 'abc']"
    child, seen = await start(code, grace=0.1)
    await until(lambda: seen)
    assert await child.stop() == -signal.SIGKILL
    assert "was killed" in child.tail[-1]


async def test_stopping_ends_the_childs_own_children_too(start):
    sleeper = f"[{sys.executable!r}, '-c', 'import time; time.sleep(600)']"
    code = f"import subprocess, time; print(subprocess.Popen({sleeper}).pid); time.sleep(600)"
    child, seen = await start(code)
    await until(lambda: seen)
    grandchild = psutil.Process(int(seen[0]))
    await child.stop()
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_stopping_a_child_that_has_ended_is_no_error(start):
    child, _ = await start("")
    await child.wait()
    assert await child.stop() == 0


async def test_it_lives_in_a_process_group_of_its_own(start):
    child, seen = await start("import os; print(os.getpgid(0))")
    await child.wait()
    assert seen == [str(child.pid)]
