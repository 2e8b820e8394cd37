"""A child that dies with its parent, even when the parent is killed with no chance to clean up.

`with_parent(command)` is the command line to start instead of `command`. It runs this file, which ties
itself to the parent and then becomes the command: same process id, same open files. On Linux the kernel
keeps the tie (`PR_SET_PDEATHSIG`, prctl(2)); it fires when the *thread* that forked ends, so start such
children from the main thread. Elsewhere a small watcher process looks for the parent twice a second.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
WATCH_INTERVAL = 0.5


def with_parent(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` as a child that dies with this process."""
    # Isolated and by path: needs no package, and starts in the time of a bare interpreter.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), "--", *command]


def main(arguments: Sequence[str]) -> int:
    """Tie this process to the parent whose id comes first, then become the command after `--`."""
    if len(arguments) < 3 or not arguments[0].isdecimal() or arguments[1] != "--":
        sys.stderr.write("usage: python -m deploy.parent_death PARENT_PID -- COMMAND...\n")
        return 2
    parent, command = int(arguments[0]), list(arguments[2:])
    if sys.platform == "linux":
        _signal_on_parent_death()
    else:
        _watch(parent)
    if os.getppid() != parent:  # it died before the tie was made
        return 1
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the given command is what this is for
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return 127


def _signal_on_parent_death() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _watch(parent: int) -> None:
    """Fork a watcher that kills this process once `parent` is gone, and ends with this process."""
    command = os.getpid()
    if os.fork() != 0:
        return
    while os.getppid() == command:
        if not _is_alive(parent):
            os.kill(command, signal.SIGKILL)
        time.sleep(WATCH_INTERVAL)
    os._exit(0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, of another user
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
