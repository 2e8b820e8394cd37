"""Logging as JSON lines, each with the request and job that it belongs to.

Messages are constant; what varies goes into `extra`, with an `action` that names what happened.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import NoReturn

_context: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)
_SIGNED = re.compile(r"""(https?://[^\s"'?\\]+)\?[^\s"'\\]*""")
"""An address with a query: those of downloads are signed there, and whoever reads one may fetch the file."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add `fields` to every line that is logged inside."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, context, extra, and the exception's text.

    Addresses are without their queries, whichever library wrote them there.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_context.get() or {}),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _SIGNED.sub(r"\1?...", json.dumps(line, default=str))


def configure_logging(level: str) -> None:
    """Send every log line of this process to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It writes to standard error by itself as well, in lines of its own form.
    logging.getLogger("huggingface_hub").handlers.clear()
    # They log each request and all headers.
    for client in ("httpx2", "httpcore2"):
        logging.getLogger(client).setLevel(logging.WARNING)


def end_process(code: int) -> NoReturn:
    """End the process with this exit code, once what was logged is written.

    The interpreter would first wait for all threads: for a download, a disk that never answers, or a kernel.
    """
    logging.shutdown()
    os._exit(code)
