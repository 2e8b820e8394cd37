from deploy.table import Column, table

COLUMNS = (Column("NAME"), Column("JOBS", ">"), Column("SAID"))
ROWS = [["a", "1", "short"], ["a long name", "1000", "a text that takes some room"]]


def test_columns_are_aligned_text_to_the_left_and_numbers_to_the_right():
    assert table(COLUMNS, ROWS, None).splitlines() == [
        "NAME         JOBS  SAID",
        "a               1  short",
        "a long name  1000  a text that takes some room",
    ]


def test_what_fits_is_left_as_it_is():
    whole = table(COLUMNS, ROWS, None)
    assert table(COLUMNS, ROWS, max(map(len, whole.splitlines()))) == whole


def test_what_does_not_has_the_name_on_a_line_of_its_own_and_long_text_cut():
    assert table(COLUMNS, ROWS, 30).splitlines() == [
        "NAME",
        "  JOBS  SAID",
        "a",
        "     1  short",
        "a long name",
        "  1000  a text that takes som…",
    ]


def test_a_number_is_never_cut():
    assert "1000" in table(COLUMNS[:2], [row[:2] for row in ROWS], 3)


def test_a_terminal_too_narrow_for_anything_still_gets_some_text():
    assert "a text that takes s…" in table(COLUMNS, ROWS, 1)
