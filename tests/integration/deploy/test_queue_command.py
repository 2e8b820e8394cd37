"""`warmbase queue` as a process, on the real server."""

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.jobs import JobStatus
from shared.pools import PoolDirectory
from shared.queue.keys import BaseKeys
from shared.queue.queue import JobQueue
from shared.queue.terms import Enqueued, Mode, QueueSettings
from shared.redis_client import command_client
from shared.refs import base_tag
from tests.builders import BASE, WORKER, a_job, a_result, a_worker, an_error
from tests.servers import free_port
from tests.steps import claim_one

ROOT = Path(__file__).parents[3]
OTHER = "stabilityai/stable-diffusion-xl-base-1.0"
COMMAND = (sys.executable, "-m", "deploy", "queue")


@pytest.fixture
async def redis(redis_url):
    async with command_client(redis_url) as client:
        yield client


@pytest.fixture
def queue(redis):
    """The queue of `BASE`; a job is given up with its first failure that may pass."""
    return JobQueue(redis, base_tag(BASE), QueueSettings(lease=600.0, max_attempts=1))


@pytest.fixture
async def served(redis):
    await PoolDirectory(redis).announce(a_worker(), 600.0)


@pytest.fixture
def give_up(queue):
    async def give_up(message="the worker ran out of memory", **changes):
        job = a_job(**changes)
        await queue.enqueue(job)
        await queue.fail(await claim_one(queue, WORKER, job.id), an_error(message=message), retry=True)
        return job.id

    return give_up


def call(url, *arguments):
    """Run the command as a person's shell would; return its exit code and what it said."""
    environ = {**os.environ, "REDIS_URL": url}
    ran = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stdout, ran.stderr


def done(url, *arguments):
    code, said, remarks = call(url, *arguments)
    assert (code, remarks) == (0, "")
    return said


def on_a_terminal(url, columns, *arguments):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environ = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env={**environ, "REDIS_URL": url}, stdout=theirs
    ) as running:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # the end, as Linux tells it
            pass
    os.close(ours)
    assert running.returncode == 0
    return said.decode().splitlines()


async def test_it_lists_the_bases_that_are_served_and_those_that_are_named(redis_url, served, queue, give_up):
    await give_up()
    for _ in range(3):
        await queue.enqueue(a_job())
    await claim_one(queue, WORKER, "running")
    heading, named, live = done(redis_url, "list", "--base", OTHER).splitlines()
    assert heading.split()[:5] == ["BASE", "MODE", "WORKERS", "WAITING", "DELAYED"]
    assert named.split() == [OTHER, "open", "0", "0", "0", "0", "0", "-", "-"]
    assert live.split()[:7] == [BASE, "open", "1", "2", "0", "1", "1"]
    (told,) = json.loads(done(redis_url, "--json"))
    assert (told["waiting"], told["running"], told["given_up"], told["work"]) == (2, 1, 1, 2.0)


async def test_where_nothing_is_served_it_says_so(redis_url):
    code, said, remark = call(redis_url)
    assert (code, said) == (0, "")
    assert "no base is served now" in remark


async def test_a_narrow_terminal_gets_narrow_lines(redis_url, served, give_up):
    job = await give_up("a message that is longer than what is left of the line, and then some")
    assert max(map(len, on_a_terminal(redis_url, 80, "list", "--base", OTHER))) <= 80
    lines = on_a_terminal(redis_url, 80, "dead", BASE)
    assert lines[2] == job
    assert len(lines[3]) == 80
    assert lines[3].endswith("…")
    assert "and then some" in done(redis_url, "dead", BASE)


async def test_the_dead_are_listed_latest_first_and_no_more_than_asked_for(redis_url, give_up):
    jobs = [await give_up() for _ in range(3)]
    code, said, remark = call(redis_url, "dead", BASE, "--most", "2")
    assert [line.split()[0] for line in said.splitlines()[1:]] == [jobs[2], jobs[1]]
    assert (code, remark) == (0, "warmbase queue: and 1 more: --most 3 shows all\n")
    assert [job["id"] for job in json.loads(done(redis_url, "dead", BASE, "--json"))] == jobs[::-1]


async def test_those_whose_record_has_expired_are_neither_listed_nor_counted(
    redis_url, redis, queue, give_up
):
    job = await give_up()
    await queue.drop(job)
    await redis.zadd(BaseKeys(base_tag(BASE)).dead, {job: 1})
    assert (await queue.overview()).given_up == 0
    code, said, remark = call(redis_url, "dead", BASE)
    assert (code, said) == (0, "")
    assert "has no job that was given up" in remark


async def test_a_job_is_shown_wherever_it_is(redis_url, queue, give_up):
    assert "failed, given up" in done(redis_url, "show", await give_up())
    ended, waiting = a_job(), a_job(sealed_token="SEALED")
    await queue.enqueue(ended)
    await queue.complete(await claim_one(queue, WORKER, "ends"), a_result())
    assert "succeeded" in done(redis_url, "show", ended.id)
    await queue.enqueue(waiting)
    assert "a red circle" in done(redis_url, "show", waiting.id)
    told = done(redis_url, "show", waiting.id, "--json")
    assert json.loads(told)["status"] == "queued"
    assert "SEALED" not in told


async def test_one_that_nobody_knows_is_said_so(redis_url):
    job = a_job().id
    for command in ("show", "retry", "drop"):
        code, said, remark = call(redis_url, command, job)
        assert (code, said) == (1, "")
        assert remark == f"warmbase queue: {job} no such job, or its record has expired\n"


async def test_jobs_are_run_again_by_name_and_one_that_cannot_be_does_not_stop_the_others(
    redis_url, queue, give_up
):
    waiting, dead = a_job(), await give_up()
    await queue.enqueue(waiting)
    code, said, remark = call(redis_url, "retry", waiting.id, dead)
    assert (code, said) == (1, f"{dead} runs again\n")
    assert "was not given up: its status is queued" in remark
    assert await queue.dead() == []


async def test_or_all_of_a_base_in_the_order_in_which_they_came(redis_url, queue, give_up):
    jobs = [await give_up() for _ in range(3)]
    assert done(redis_url, "retry", "--all", BASE) == f"3 jobs of {BASE} run again\n"
    assert [(await claim_one(queue, WORKER, job)).job.id for job in jobs] == jobs


async def test_jobs_are_dropped_by_name_or_all_of_a_base(redis_url, queue, give_up):
    first, *others = [await give_up() for _ in range(3)]
    assert done(redis_url, "drop", first) == f"{first} is dropped\n"
    assert done(redis_url, "drop", "--all", BASE) == f"2 jobs of {BASE} are dropped\n"
    assert await queue.records([first, *others]) == [None] * 3


async def test_a_base_is_paused_drained_and_opened_again(redis_url, served, queue):
    for command, mode in (("pause", Mode.PAUSED), ("drain", Mode.DRAINING), ("resume", Mode.OPEN)):
        assert done(redis_url, command, BASE).startswith(f"{BASE} is ")
        assert (await queue.overview()).mode is mode


async def test_one_that_nobody_serves_may_be_prepared_and_that_is_said(redis_url, queue):
    code, said, remark = call(redis_url, "drain", BASE)
    assert code == 0
    assert "is being drained" in said
    assert f"nobody serves {BASE} now" in remark
    assert (await queue.enqueue(a_job())).outcome is Enqueued.CLOSED


async def test_the_key_holds_what_waits(redis_url, redis, queue):
    await queue.enqueue(a_job())
    await queue.enqueue(a_job())
    assert await redis.zcard(done(redis_url, "key", BASE).strip()) == 2


def test_the_key_is_found_without_a_server():
    assert done(f"redis://127.0.0.1:{free_port()}", "key", BASE).startswith("warmbase:")


@pytest.mark.parametrize("arguments", [["retry"], ["drop", a_job().id, "--all", BASE], ["show", "7"]])
def test_bad_arguments_end_before_anything_is_asked(arguments):
    code, said, remark = call(f"redis://127.0.0.1:{free_port()}", *arguments)
    assert (code, said) == (2, "")
    assert "usage: warmbase queue" in remark


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_server_that_is_not_there_is_named_without_its_password(scheme):
    port = free_port()
    code, said, remark = call(f"{scheme}://me:hunter2@127.0.0.1:{port}", "list")
    assert (code, said) == (1, "")
    assert f"Redis at 127.0.0.1:{port} does not answer" in remark
    assert "hunter2" not in remark


@pytest.mark.parametrize("password", [":hunter2@", "me:hunter2@", ""])
def test_so_is_one_that_refuses_the_password(redis_server, password):
    address = urlsplit(redis_server.url)
    assert address.password
    code, said, remark = call(f"redis://{password}{address.hostname}:{address.port}", "list")
    assert (code, said) == (1, "")
    assert "refuses the user or the password" in remark
    assert "hunter2" not in remark


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@h",
        "redis://me:hun/ter2@h",
        "redis://me:hunter2@h:port",
        "redis://me:hunter2@h?nonsense=1",
    ],
)
def test_an_address_that_cannot_be_used_is_not_repeated(url):
    code, said, remark = call(url, "list")
    assert (code, said) == (2, "")
    assert "hun" not in remark


async def test_a_prompt_that_the_terminal_cannot_spell_is_no_reason_to_fail(redis_url, queue, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    job = a_job(base=BASE)
    await queue.enqueue(job)
    await queue.fail(await claim_one(queue, WORKER, "t"), an_error(message="évil"), retry=False)
    assert "\\xe9vil" in done(redis_url, "show", job.id)
    (record,) = await queue.records([job.id])
    assert record.status is JobStatus.FAILED


def test_a_reader_that_has_seen_enough_is_no_failure_to_report(redis_url):
    environ = {**os.environ, "REDIS_URL": redis_url}
    with subprocess.Popen(
        [*COMMAND, "key", BASE], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
