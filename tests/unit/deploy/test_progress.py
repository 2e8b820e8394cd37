import io

import pytest

from deploy.progress import LiveScreen, PlainScreen, Status, open_screen, paint, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


def status(name="worker x", stage="loading", seconds=1.25, ready=False):
    return Status(name=name, stage=stage, seconds=seconds, ready=ready)


READY = status(stage="ready", seconds=6.21, ready=True)


def test_a_pipe_gets_one_line_for_each_change():
    stream = io.StringIO()
    screen = open_screen(stream, {})
    for news in (status(stage="starting"), status(), status(seconds=2.0), READY, READY):
        screen.show(news)
    assert stream.getvalue().splitlines() == [
        "[worker x] starting",
        "[worker x] loading",
        "[worker x] ready in 6.2 s",
    ]


def test_a_stage_that_counts_does_not_flood_a_pipe():
    stream = io.StringIO()
    screen = PlainScreen(stream)
    for second in range(12):
        screen.show(status(stage=f"downloading {second} of 12 MB", seconds=second))
    screen.show(status(stage="loading", seconds=12))
    assert stream.getvalue().splitlines() == [
        "[worker x] downloading 0 of 12 MB",
        "[worker x] downloading 5 of 12 MB",
        "[worker x] downloading 10 of 12 MB",
        "[worker x] loading",
    ]


def test_a_terminal_gets_a_table_that_is_redrawn_in_place():
    stream = Terminal()
    screen = LiveScreen(stream, coloured=False)
    screen.show(status(name="router"))
    screen.show(status())
    stream.truncate(0), stream.seek(0)
    screen.show(READY)
    erase, _, rows = stream.getvalue().partition("\x1b[J")
    assert erase == "\x1b[2F"
    assert [row.split() for row in rows.splitlines()] == [
        ["router", "loading", "1.2", "s"],
        ["worker", "x", "ready", "6.2", "s"],
    ]


def test_lines_are_printed_above_the_table_and_stay():
    stream = Terminal()
    screen = LiveScreen(stream, coloured=False)
    screen.show(status())
    stream.truncate(0), stream.seek(0)
    screen.say("something happened")
    assert stream.getvalue() == "\x1b[1F\x1b[Jsomething happened\n" + table([status()], 80)[0] + "\n"


def test_what_follows_a_settled_table_does_not_touch_it():
    stream = Terminal()
    screen = LiveScreen(stream, coloured=False)
    screen.show(status())
    screen.settle()
    stream.truncate(0), stream.seek(0)
    screen.say("below")
    assert stream.getvalue() == "below\n"


def test_columns_line_up_and_rows_never_wrap():
    rows = table([status(name="hub"), status(stage="downloading the base")], width=200)
    assert len({len(row) for row in rows}) == 1
    assert all(len(row) == 12 for row in table([status()], width=12))


@pytest.mark.parametrize(
    ("environ", "kind", "coloured"),
    [
        ({}, LiveScreen, True),
        ({"NO_COLOR": "1"}, LiveScreen, False),
        ({"NO_COLOR": ""}, LiveScreen, True),
        ({"TERM": "dumb"}, PlainScreen, False),
    ],
)
def test_the_terminals_and_the_persons_wishes_are_respected(environ, kind, coloured):
    screen = open_screen(Terminal(), environ)
    assert isinstance(screen, kind)
    assert screen.coloured is coloured


def test_a_file_never_gets_colours():
    assert open_screen(io.StringIO(), {}).coloured is False
    assert paint("text", "red", coloured=False) == "text"
