import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.log_lines import LogLine, for_people, parse
from deploy.printable import printable
from shared.logs import JsonFormatter


def logged(level, message, **extra):
    record = logging.LogRecord("worker", level, "file", 1, message, (), None)
    vars(record).update(extra)
    return JsonFormatter().format(record)


def shown(line, *, verbose=False, coloured=False):
    return for_people("hub", parse(line), verbose=verbose, coloured=coloured)


def test_a_log_line_becomes_its_message_with_its_details():
    line = parse(logged(logging.WARNING, "adapter refused", action="refuse", repo="a/b", size=3))
    assert line == LogLine(level="warning", text="adapter refused (repo=a/b size=3)")


def test_only_what_needs_attention_is_shown():
    assert shown(logged(logging.INFO, "all well")) is None
    assert shown("not a log line") is None
    assert shown(logged(logging.WARNING, "beware")) == "[hub] warning: beware"
    assert shown(logged(logging.CRITICAL, "alas")) == "[hub] critical: alas"


def test_verbose_shows_everything():
    assert shown(logged(logging.INFO, "all well"), verbose=True) == "[hub] all well"
    assert shown("not a log line", verbose=True) == "[hub] not a log line"


def test_a_traceback_is_shown_only_to_those_who_asked_for_everything():
    line = json.dumps({"level": "error", "message": "failed", "exception": "Traceback\nValueError: x"})
    assert shown(line) == "[hub] error: failed"
    assert shown(line, verbose=True) == "[hub] error: failed\nTraceback\nValueError: x"


@pytest.mark.parametrize(
    ("level", "code"), [(logging.INFO, "90"), (logging.WARNING, "33"), (logging.ERROR, "31")]
)
def test_the_prefix_is_coloured_by_level(level, code):
    text = shown(logged(level, "m"), verbose=True, coloured=True)
    assert text.startswith(f"\x1b[{code}m[hub]\x1b[0m ")


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_whatever_a_part_writes_can_be_shown(line):
    assert parse(line).text == printable(line)
    assert shown(line, verbose=True).endswith(printable(line))


@given(st.text(), st.text(), st.lists(st.text()))
def test_what_a_stranger_put_into_a_log_line_steers_no_terminal(message, path, frames):
    line = json.dumps({"level": "info", "message": message, "path": path, "exception": "\n".join(frames)})
    assert "".join(shown(line, verbose=True).split("\n")).isprintable()
