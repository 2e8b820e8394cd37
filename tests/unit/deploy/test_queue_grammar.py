import pytest

from deploy.queue_grammar import COMMANDS, grammar, or_list
from tests.builders import BASE, a_job

JOB = a_job().id


def read(*arguments):
    return grammar().parse_args(or_list(arguments))


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--redis", "redis://h"), ("--base", BASE)])
def test_without_a_command_it_lists(arguments):
    assert read(*arguments).command == "list"


def test_help_is_that_of_all_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [command for command in COMMANDS if f"\n    {command} " not in said] == []


@pytest.mark.parametrize(
    "arguments", [("--redis", "redis://h", "key", BASE), ("key", BASE, "--redis", "redis://h")]
)
def test_the_server_may_be_named_before_the_command_or_behind_it(arguments):
    assert read(*arguments).redis == "redis://h"


def test_it_need_not_be_named():
    assert read("key", BASE).redis is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["deed", BASE], "invalid choice: 'deed'"),
        (["dead"], "required: BASE"),
        (["dead", "sdxl"], "argument BASE: 'sdxl': a model id has the form 'organisation/name'"),
        (["list", "--base", "a/../b"], "argument --base: 'a/../b': a model id"),
        (["show", "7"], "argument JOB: '7' is no job id"),
        (["show", JOB.upper()], "is no job id"),
        (["retry", JOB, "7"], "argument JOB: '7' is no job id"),
        (["drop", "--all", "sdxl"], "argument --all: 'sdxl'"),
        (["dead", BASE, "--most", "0"], "argument --most: '0' is no whole number above 0"),
        (["pause", BASE, "--json"], "unrecognized arguments: --json"),
        (["--redis", "http://me:hunter2@h"], "argument --redis: has to begin with redis://"),
    ],
)
def test_bad_arguments_are_explained(arguments, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert reason in said
    assert "hunter2" not in said
