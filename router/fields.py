"""A JSON object read field by field: types, bounds, unknown names. Every refusal knows its path."""

from collections.abc import Iterable, Mapping
from typing import NoReturn, Self

from shared.errors import InvalidRequest

MAX_FIELDS = 128
"""Of one object; no request has half as many."""

MAX_FIELD_NAME = 100


def reject(field: str, problem: str) -> NoReturn:
    """Raise InvalidRequest; an expression of its own, so that checks read as one line."""
    raise InvalidRequest(field, problem)


class Fields:
    """The fields of one object. Null counts as absent; `finish` refuses what nobody read."""

    def __init__(self, raw: Mapping[str, object], path: str = "") -> None:
        """Raises InvalidRequest for more fields, or longer names, than any request has."""
        if len(raw) > MAX_FIELDS:
            reject(path or "body", f"has at most {MAX_FIELDS} fields")
        for name in raw:
            checked_text(name, path or "body", MAX_FIELD_NAME, empty=True)
        self._raw = {name: value for name, value in raw.items() if value is not None}
        self._path = path
        self._unread = set(self._raw)

    def path(self, name: str) -> str:
        """Return where the field stands in the request."""
        return f"{self._path}.{name}" if self._path else name

    def text(self, name: str, longest: int, *, empty: bool = False) -> str | None:
        """Return a text of at most `longest` characters, None if absent."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            reject(self.path(name), "has to be a string")
        return checked_text(value, self.path(name), longest, empty=empty)

    def integer(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number between the bounds, None if absent."""
        value = self.number(name, least, most)
        if value is None:
            return None
        if value != int(value):
            reject(self.path(name), "has to be a whole number")
        return int(value)

    def number(self, name: str, least: float, most: float) -> float | int | None:
        """Return a number between the bounds, None if absent."""
        value = self._take(name)
        return None if value is None else _checked_number(value, self.path(name), least, most)

    def numbers(self, name: str, least: float, most: float, longest: int) -> tuple[float, ...]:
        """Return the numbers of a list, each between the bounds; none if it is absent."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not value:
            reject(self.path(name), "has to be a list of numbers")
        if len(value) > longest:
            reject(self.path(name), f"has at most {longest} entries")
        return tuple(
            float(_checked_number(item, self.path(f"{name}[{place}]"), least, most))
            for place, item in enumerate(value)
        )

    def child(self, name: str) -> Self:
        """Return an object's fields; none if it is absent."""
        value = self._take(name)
        if value is None:
            return type(self)({}, self.path(name))
        if not isinstance(value, dict):
            reject(self.path(name), "has to be an object")
        return type(self)(value, self.path(name))

    def children(self, name: str, most: int) -> tuple[Self, ...]:
        """Return the objects of a list; none if it is absent."""
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            reject(self.path(name), "has to be a list of objects")
        if len(value) > most:
            reject(self.path(name), f"has at most {most} entries")
        for place, item in enumerate(value):
            if not isinstance(item, dict):
                reject(self.path(f"{name}[{place}]"), "has to be an object")
        return tuple(type(self)(item, self.path(f"{name}[{place}]")) for place, item in enumerate(value))

    def spelling(self, names: Iterable[str]) -> str | None:
        """Return which of several names for the same thing is used, None if none is."""
        used = [name for name in names if name in self._raw]
        if len(used) > 1:
            reject(self.path(used[1]), f"says the same as {used[0]}: give one of them")
        return used[0] if used else None

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return name in self._raw

    def names(self) -> tuple[str, ...]:
        """Return the names of all fields that are not null, in the order of their writing."""
        return tuple(self._raw)

    def holds_object(self, name: str) -> bool:
        """Whether the field is there and an object."""
        return isinstance(self._raw.get(name), dict)

    def holds_list(self, name: str) -> bool:
        """Whether the field is there and a list."""
        return isinstance(self._raw.get(name), list)

    def require(self, name: str) -> None:
        """Refuse the object if the field is absent."""
        if name not in self._raw:
            reject(self.path(name), "is missing")

    def skip(self, name: str) -> None:
        """Let the field be, whatever it holds."""
        self._unread.discard(name)

    def finish(self) -> None:
        """Refuse the first field that was not read."""
        for name in sorted(self._unread):
            reject(self.path(name), "unknown field")

    def _take(self, name: str) -> object:
        self._unread.discard(name)
        return self._raw.get(name)


def _checked_number(value: object, field: str, least: float, most: float) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        reject(field, "has to be a number")
    if not least <= value <= most:
        reject(field, f"has to be between {least:g} and {most:g}")
    return value


def checked_text(text: str, field: str, longest: int, *, empty: bool = False) -> str:
    """Return `text` if it is well-formed Unicode, not longer than `longest`, and not empty.

    Raises:
        InvalidRequest: it is not.
    """
    if not empty and not text.strip():
        reject(field, "is empty")
    if len(text) > longest:
        reject(field, f"has at most {longest} characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        reject(field, "is not well-formed Unicode (half of a surrogate pair)")
    return text
