import json
import logging
import subprocess
import sys

import pytest

from shared.logs import JsonFormatter, configure_logging, log_context


def line(message="job ended", *, error=None, **extra) -> dict[str, object]:
    record = logging.LogRecord("worker.loop", logging.INFO, "loop.py", 1, message, (), error)
    vars(record).update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_says_when_how_grave_who_and_what():
    read = line()
    assert (read["level"], read["logger"], read["message"]) == ("info", "worker.loop", "job ended")
    assert read["time"].endswith("+00:00")


def test_what_varies_stands_beside_the_message():
    assert line(action="job.end", steps=20).items() >= {"action": "job.end", "steps": 20}.items()


def test_nothing_else_does():
    assert set(line(action="x")) == {"time", "level", "logger", "message", "action"}


def test_a_value_that_is_no_json_is_written_as_text():
    assert line(error_kind=ValueError)["error_kind"] == "<class 'ValueError'>"


def test_an_exception_is_in_the_line():
    try:
        int("boom")
    except ValueError:
        read = line(error=sys.exc_info())
    assert "ValueError: invalid literal" in read["exception"]


def test_lines_inside_a_context_have_its_fields():
    with log_context(request="r1"), log_context(job="j1"):
        assert line().items() >= {"request": "r1", "job": "j1"}.items()


def test_a_context_ends():
    with log_context(request="r1"):
        with log_context(request="r2", job="j1"):
            pass
        assert line()["request"] == "r1"
        assert "job" not in line()
    assert "request" not in line()


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_process_logs_from_its_level_up(root_logger, capsys):
    configure_logging("warning")
    logging.getLogger("router").info("too quiet")
    logging.getLogger("router").warning("heard")
    (written,) = capsys.readouterr().err.splitlines()
    assert json.loads(written)["message"] == "heard"


WRITES = """
import logging
import huggingface_hub
from shared.logs import configure_logging

SIGNED = "https://cdn.example/a/file.safetensors?Expires=1&Signature=secret~a_"

configure_logging("debug")
for client in ("httpx2", "httpcore2.http11"):
    logging.getLogger(client).debug("Location: %s", SIGNED)
logging.getLogger("huggingface_hub.file_download").warning("Error while downloading from %s (cut)", SIGNED)
try:
    raise OSError(f"503 for url '{SIGNED}' (Request ID: 7)\\n\\nfor url: {SIGNED}\\nlast line")
except OSError:
    logging.getLogger("worker").exception("failed", extra={"address": SIGNED})
"""


def test_no_signature_of_a_download_s_address_is_logged_whoever_writes_it(capfd):
    subprocess.run([sys.executable, "-c", WRITES], check=True)
    written = capfd.readouterr().err
    assert "secret" not in written
    first, second = map(json.loads, written.splitlines())
    address = "https://cdn.example/a/file.safetensors?..."
    assert first["message"] == f"Error while downloading from {address} (cut)"
    assert second["exception"].endswith("last line")
    assert second["address"] == address
