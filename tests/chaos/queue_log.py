"""The queue's own account: every change of a job's state, from the file that the server appends to.

With `appendonly yes` and no rewriting the file holds each write in the order in which the server made it,
across kills and restarts: what is not in it did not happen.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hiredis

from tests.chaos.history import Event

PIECE = 1 << 20


def read_queue_log(folder: Path) -> Iterator[Event]:
    """Return what happened to jobs, in order.

    `added` brings what is asked for, `running` worker and fence, an end its result or error, and whether the
    job was `unwanted`. `queued` is the return of a job that was taken back or released, or was unwanted, and
    has no time.
    """
    for file in sorted((folder / "appendonlydir").glob("*.incr.aof")):
        for command in _commands(file):
            if command[0].upper() == b"HSET" and b":job:" in command[1]:
                fields = dict(zip(command[2::2], command[3::2], strict=True))
                if b"status" in fields:
                    yield _event(command[1].rpartition(b":")[2].decode(), fields)


def _commands(file: Path) -> Iterator[Sequence[bytes]]:
    reader = hiredis.Reader()
    with file.open("rb") as log:
        while piece := log.read(PIECE):
            reader.feed(piece)
            while command := reader.gets():
                yield command


def _event(job: str, fields: Mapping[bytes, bytes]) -> Event:
    status = fields[b"status"].decode()
    event: Event = {"event": "queue", "job": job, "status": status, "t": None}
    if fields.keys() >= {b"job", b"enqueued_at"}:
        params = json.loads(fields[b"job"])["params"]
        event |= {"status": "added", "t": _time(fields, b"enqueued_at")}
        event |= {"prompt": params["prompt"], "seed": params["seed"]}
    elif status == "running":
        event |= {"t": _time(fields, b"started_at"), "fence": int(fields[b"fence"])}
        event |= {"worker": fields[b"worker"].decode()}
    elif status != "queued":
        event |= {"t": _time(fields, b"finished_at"), "blob": None, "error": None}
        event |= {"unwanted": b"unwanted" in fields}
        if result := fields.get(b"result"):
            event["blob"] = json.loads(result)["blob"]
        if error := fields.get(b"error"):
            event["error"] = json.loads(error)
    return event


def _time(fields: Mapping[bytes, bytes], name: bytes) -> Any:
    return float(fields[name])
