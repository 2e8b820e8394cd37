"""What a part logs, made readable: JSON lines become one short line, and most stay unseen."""

import json
from dataclasses import dataclass

from deploy.printable import printable
from deploy.progress import paint

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_ATTENTION = _LEVELS["warning"]
_HIDDEN = frozenset({"time", "level", "logger", "message", "action", "exception"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line that a part wrote.

    Attributes:
        level: empty when it was no log line of ours.
        text: one line.
        traceback: of the exception that was logged, if any.
    """

    level: str
    text: str
    traceback: str = ""

    @property
    def needs_attention(self) -> bool:
        """Whether a person should see it without having asked for all lines."""
        return _LEVELS.get(self.level, 0) >= _ATTENTION

    @property
    def is_error(self) -> bool:
        """Whether it reports a failure."""
        return _LEVELS.get(self.level, 0) > _ATTENTION


def parse(line: str) -> LogLine:
    """Return `line` in a form for people; control characters are spelt out, and steer no terminal."""
    try:
        fields = json.loads(line)
    except ValueError:
        return LogLine(level="", text=printable(line))
    if not isinstance(fields, dict) or "message" not in fields:
        return LogLine(level="", text=printable(line))
    details = " ".join(f"{key}={value}" for key, value in fields.items() if key not in _HIDDEN)
    return LogLine(
        level=str(fields.get("level", "")),
        text=printable(f"{fields['message']} ({details})" if details else str(fields["message"])),
        traceback="\n".join(map(printable, str(fields.get("exception", "")).splitlines())),
    )


def for_people(name: str, line: LogLine, *, verbose: bool, coloured: bool) -> str | None:
    """Return what to show of a line that the part `name` wrote; None for nothing."""
    if not (verbose or line.needs_attention):
        return None
    colour = "red" if line.is_error else "yellow" if line.needs_attention else "grey"
    prefix = paint(f"[{name}]", colour, coloured=coloured)
    level = f"{line.level}: " if line.needs_attention else ""
    traceback = f"\n{line.traceback}" if verbose and line.traceback else ""
    return f"{prefix} {level}{line.text}{traceback}"
