"""`docs/faults.md` says what is tested: no number may be missing, and no test that it names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def functions_of(file: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_every_case_has_its_line():
    assert [int(line.split("|")[1]) for line in LINES] == list(range(1, 48))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_every_test_that_a_line_names_exists(line):
    named = NAMED.findall(line)
    assert named, "a case without a test says so in words below the tables, and names the nearest one here"
    for file, name in named:
        assert name in set(functions_of(file)), f"{file}::{name}"
