import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.parent_death import with_parent

ROOT = Path(__file__).parents[3]

# A parent that starts a sleeping child, tells its id, and waits.
PARENT = """
import subprocess, sys
from deploy.parent_death import with_parent
sleep = "import time; print('up', flush=True); time.sleep(600)"
child = subprocess.Popen(with_parent([sys.executable, "-c", sleep]))
print(child.pid, flush=True)
input()
"""

# The same, as on a system without prctl: the child is told that it runs elsewhere.
PARENT_ELSEWHERE = """
import os, subprocess, sys
run = '''
import sys
sys.platform = "elsewhere"
from deploy.parent_death import main
sys.exit(main(sys.argv[1:]))
'''
sleep = "import time; print('up', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", run, str(os.getpid()), "--", sys.executable, "-c", sleep])
print(child.pid, flush=True)
input()
"""


def test_the_command_runs_under_the_id_of_the_child():
    with subprocess.Popen(
        with_parent([sys.executable, "-c", "import os; print(os.getpid())"]), stdout=subprocess.PIPE
    ) as child:
        assert child.communicate()[0].strip() == str(child.pid).encode()
    assert child.returncode == 0


@pytest.mark.parametrize("parent_code", [PARENT, PARENT_ELSEWHERE], ids=["prctl", "watcher"])
def test_the_child_dies_with_a_parent_that_is_killed(parent_code):
    with subprocess.Popen(
        [sys.executable, "-c", parent_code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        family = psutil.Process(parent.pid).children(recursive=True)
        assert str(family[0].pid).encode() in said
        assert b"up" in said
        parent.kill()
    assert psutil.wait_procs(family, timeout=20)[1] == []


def test_the_watcher_ends_with_its_child():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT_ELSEWHERE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        parent.stdout.readline(), parent.stdout.readline()
        child, watcher = psutil.Process(parent.pid).children(recursive=True)
        child.kill()
        assert psutil.wait_procs([watcher], timeout=20) == ([watcher], [])
        parent.kill()


def test_a_child_whose_parent_is_gone_already_does_not_start():
    command = with_parent([sys.executable, "-c", "print('started')"])
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_command_that_cannot_run_is_named():
    done = subprocess.run(with_parent(["/no/such/program"]), capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "/no/such/program" in done.stderr


def test_a_wrong_command_line_shows_the_usage():
    done = subprocess.run(
        [sys.executable, "-m", "deploy.parent_death", "x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "PARENT_PID" in done.stderr
