"""Faults to order: how a test makes the Hub slow, broken or curt."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

MAX_LATENCY_S = 3600


class FaultRuleError(ValueError):
    """A rule makes no sense; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultRule:
    """What happens to requests whose path matches a pattern (`*` also matches slashes).

    `times` is for how many requests, None for all until the rules are replaced. A HEAD request uses
    up a rule as well; set `method` to spare it.
    """

    path: str = "*"
    method: str | None = None
    times: int | None = None
    latency_s: float = 0.0
    status: int | None = None
    cut_after_bytes: int | None = None
    bytes_per_second: int | None = None

    @property
    def shapes_body(self) -> bool:
        """Whether the body is sent other than at once and whole."""
        return self.cut_after_bytes is not None or self.bytes_per_second is not None


class Faults:
    """The rules in force. The first one that matches a request applies to it, alone."""

    def __init__(
        self,
        rules: Iterable[FaultRule] = (),
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.sleep = sleep
        self._rules: list[tuple[FaultRule, int | None]] = []
        self.replace(rules)

    def add(self, rule: FaultRule) -> None:
        """Put a rule behind the others."""
        self._rules.append((rule, rule.times))

    def replace(self, rules: Iterable[FaultRule]) -> None:
        """Put `rules` in the place of all others."""
        self._rules = [(rule, rule.times) for rule in rules]

    def take(self, method: str, path: str) -> FaultRule | None:
        """Return the rule for a request, and count it as used once more."""
        for place, (rule, left) in enumerate(self._rules):
            if rule.method in {None, method} and fnmatchcase(path, rule.path):
                if left == 1:
                    del self._rules[place]
                elif left is not None:
                    self._rules[place] = (rule, left - 1)
                return rule
        return None


def parse_rules(given: object) -> list[FaultRule]:
    """Return the rules of a request body ``{"rules": [{...}, ...]}``.

    Raises:
        FaultRuleError: a rule is not of that form.
    """
    match given:
        case {"rules": list(rules)}:
            return [_parse_rule(rule) for rule in rules]
        case _:
            raise FaultRuleError('expected {"rules": [...]}')


def _parse_rule(given: object) -> FaultRule:
    if not isinstance(given, Mapping):
        raise FaultRuleError("a rule is an object")
    if unknown := sorted(set(given) - {field.name for field in fields(FaultRule)}):
        raise FaultRuleError(f"unknown field: {', '.join(unknown)}")
    method = _text(given, "method")
    return FaultRule(
        path=_text(given, "path") or "*",
        method=method.upper() if method else None,
        times=_number(given, "times", 1, None),
        latency_s=_seconds(given, "latency_s"),
        status=_number(given, "status", 400, 599),
        cut_after_bytes=_number(given, "cut_after_bytes", 0, None),
        bytes_per_second=_number(given, "bytes_per_second", 1, None),
    )


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise FaultRuleError(f"{name}: expected a text")
    return value


def _number(given: Mapping[str, object], name: str, least: int, most: int | None) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FaultRuleError(f"{name}: expected a number of at least {least}")
    if most is not None and value > most:
        raise FaultRuleError(f"{name}: expected a number of at most {most}")
    return value


def _seconds(given: Mapping[str, object], name: str) -> float:
    value = given.get(name, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_LATENCY_S:
        raise FaultRuleError(f"{name}: expected a number between 0 and {MAX_LATENCY_S}")
    return float(value)
