"""The Hub as a process of its own, as a launcher starts it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub import HfApi, close_session

ANNOUNCEMENT = "local hub listening on "


@contextmanager
def started(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "deploy.local_hub", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_when_told(write_repo, hub_root, stop):
    write_repo("someone/style", {"README.md": "x"})
    with started("--root", str(hub_root)) as process:
        line = process.stdout.readline()
        assert line.startswith(f"{ANNOUNCEMENT}http://127.0.0.1:")
        url = line.removeprefix(ANNOUNCEMENT).strip()
        assert HfApi(endpoint=url, token=False).model_info("someone/style").id == "someone/style"
        close_session()

        process.send_signal(stop)
        rest, errors = process.communicate(timeout=60)

    assert process.returncode == 0
    assert (rest, errors) == ("", "")


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (".hub-tokens.yaml", "- a list", ".hub-tokens.yaml: expected a mapping with text keys"),
        (
            "someone/style/.hub.yaml",
            "gated: maybe",
            "someone/style/.hub.yaml: gated: expected auto or manual",
        ),
    ],
)
def test_it_does_not_start_with_wrong_settings(write_repo, hub_root, file, text, complaint):
    write_repo("someone/style", {"README.md": "x"})
    (hub_root / file).write_text(text)

    with started("--root", str(hub_root)) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors == f"local hub: {complaint}\n"


def test_it_does_not_start_without_a_root(tmp_path):
    with started("--root", str(tmp_path / "absent")) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "no such folder" in errors


def test_limits_must_make_sense(hub_root):
    with started("--root", str(hub_root), "--api-limit", "0") as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 2
    assert "--api-limit" in errors
