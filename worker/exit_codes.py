"""How the process ends, for the supervisor that restarts it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """0 for an end that was asked for; what nobody foresaw has 1, as in all of Python."""

    STOPPED = 0
    UNFORESEEN = 1
    BAD_CONFIG = 2
    BASE_NOT_LOADED = 3
    BASE_DAMAGED = 4
    STALLED = 5
    HEARTBEAT_LOST = 6
