import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import cli, plan

ROOT = Path(__file__).parents[3]


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments, {})
    return ended.value.code, capsys.readouterr().err


@pytest.fixture
def asked(monkeypatch):
    """The options that `warmbase up` was called with, in place of running it."""
    calls = []

    class Up:
        @staticmethod
        def main(options, _environ):
            calls.append(options)
            return 0

    monkeypatch.setattr(cli, "import_module", {"deploy.up": Up}.__getitem__)
    return calls


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: COMMAND"),
        (["down"], "invalid choice: 'down'"),
        (["up"], "--base, or use --demo"),
        (["up", "--base", "sdxl"], "organisation/name"),
        (["up", "--demo", "--port", "eighty"], "'eighty' is no port"),
        (["up", "--demo", "--port", "65536"], "'65536' is no port"),
        (["up", "--demo", "--dtype", "int8"], "float32"),
        (["up", "--demo", "--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_bad_arguments_are_explained(arguments, reason, capsys):
    code, said = fails(arguments, capsys)
    assert code == 2
    assert reason in said


def test_the_demo_needs_no_further_choice(asked):
    assert cli.main(["up", "--demo"], {}) == 0
    assert asked == [
        plan.UpOptions(
            demo=True,
            bases=plan.DEMO_BASES,
            redis_url=None,
            host="127.0.0.1",
            port=8000,
            device=None,
            dtype=None,
            verbose=False,
        )
    ]


def test_an_address_of_redis_that_cannot_be_used_starts_nothing(asked, capsys):
    for arguments, environ in (
        (["--redis", "redis://:hunter2@h?nonsense=1"], {}),
        ([], {"REDIS_URL": "redis://:hunter2@h?nonsense=1"}),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["up", "--demo", *arguments], environ)
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert "the address of Redis: the option nonsense is not known" in said
        assert "hunter2" not in said
    assert asked == []


def test_a_redis_is_taken_from_the_environment_unless_one_is_named(asked):
    cli.main(["up", "--demo"], {"REDIS_URL": "redis://environment"})
    cli.main(["up", "--demo", "--redis", "redis://named"], {"REDIS_URL": "redis://environment"})
    assert [options.redis_url for options in asked] == ["redis://environment", "redis://named"]


@pytest.mark.parametrize("name", ["router", "worker"])
def test_router_and_worker_are_what_python_runs_under_these_names(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("import sys; print(__name__, sys.argv[1:]); sys.exit(3)")
    command = [sys.executable, "-P", "-c", "import deploy.cli; deploy.cli.main()", name, "--help", "me"]
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    ran = subprocess.run(
        command, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "__main__ ['--help', 'me']\n"
    assert ran.returncode == 3


def test_queue_has_words_of_its_own(monkeypatch):
    calls = []

    class QueueCommand:
        @staticmethod
        def main(arguments, environ):
            calls.append((arguments, environ))
            return 1

    monkeypatch.setattr(cli, "import_module", {"deploy.queue_command": QueueCommand}.__getitem__)
    assert cli.main(["queue", "dead", "a/b", "--most", "3", "--help"], {"REDIS_URL": "r"}) == 1
    assert calls == [(["dead", "a/b", "--most", "3", "--help"], {"REDIS_URL": "r"})]


def test_queue_imports_neither_process_nor_web_framework():
    heavy = "{'torch', 'diffusers', 'aiohttp', 'router', 'worker', 'deploy.up'}"
    code = f"import sys, deploy.queue_command; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_help_and_errors_import_no_subcommands_package():
    heavy = "{'torch', 'diffusers', 'aiohttp', 'router', 'worker'}"
    code = f"import sys, deploy.cli; deploy.cli.build_parser(); print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
