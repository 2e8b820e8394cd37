"""The requests that came in, so that a test can say how many a caller needed."""

from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase

MAX_ENTRIES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedRequest:
    """One request; `status` is None until the answer begins. Tokens are never kept, only their user."""

    method: str
    path: str
    query: str
    range: str | None = None
    user: str | None = None
    status: int | None = None


class RequestLog:
    """The newest requests, in order of arrival."""

    def __init__(self) -> None:
        self._entries: dict[int, LoggedRequest] = {}
        self._arrived = 0

    def arrived(self, entry: LoggedRequest) -> int:
        """Note a request and return its number."""
        self._arrived += 1
        self._entries[self._arrived] = entry
        self._entries.pop(self._arrived - MAX_ENTRIES, None)
        return self._arrived

    def answered(self, number: int, *, status: int, user: str | None) -> None:
        """Note the answer to a request."""
        if number in self._entries:
            self._entries[number] = replace(self._entries[number], status=status, user=user)

    def matching(self, path: str = "*", method: str | None = None) -> list[LoggedRequest]:
        """Return the requests whose path matches a pattern (`*` also matches slashes)."""
        return [
            entry
            for entry in self._entries.values()
            if fnmatchcase(entry.path, path) and method in {None, entry.method}
        ]

    def count(self, path: str = "*", method: str | None = None) -> int:
        """Return how many requests match."""
        return len(self.matching(path, method))

    def forget(self) -> None:
        """Start anew."""
        self._entries.clear()

    def as_json(self, path: str, method: str | None) -> dict[str, object]:
        """Return the matching requests as `GET /_requests` shows them."""
        entries = self.matching(path, method)
        return {"count": len(entries), "requests": [asdict(entry) for entry in entries]}
