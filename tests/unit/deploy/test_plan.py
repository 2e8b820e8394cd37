import os
from pathlib import Path

import pytest

from deploy.plan import (
    DEMO_BASES,
    DEMO_REPOSITORIES,
    STOP_ORDER,
    Machine,
    Role,
    UpOptions,
    choose_bases,
    common_environ,
    hub_child,
    local_url,
    router_child,
    worker_children,
    worker_names,
)
from shared.errors import InvalidRequest

HUB = "http://127.0.0.1:9"


def machine(**environ):
    return Machine(environ=environ, cores=8, demo_home=Path("/downloads"), secret="fresh")


def options(**changes):
    chosen = {
        "demo": True,
        "bases": DEMO_BASES,
        "redis_url": None,
        "host": "127.0.0.1",
        "port": 0,
        "device": None,
        "dtype": None,
        "verbose": False,
    }
    return UpOptions(**{**chosen, **changes})


def test_the_demo_serves_both_of_its_bases_unless_some_are_named():
    assert choose_bases(demo=True, named=[]) == DEMO_BASES
    assert choose_bases(demo=True, named=["warmbase/shapes-xl"]) == ("warmbase/shapes-xl",)


def test_without_demo_a_base_has_to_be_named():
    with pytest.raises(ValueError, match="--base, or use --demo"):
        choose_bases(demo=False, named=[])


def test_a_base_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="--base a/b is given twice"):
        choose_bases(demo=False, named=["a/b", "c/d", "a/b"])


def test_a_base_that_is_no_model_id_is_refused():
    with pytest.raises(InvalidRequest, match=r"--base: .*organisation/name"):
        choose_bases(demo=False, named=["b"])


def test_router_and_workers_get_the_queue_and_the_persons_own_settings():
    environ = common_environ(machine(PATH="/bin", HF_TOKEN="own"), "redis://r", demo_hub=None)
    assert environ["REDIS_URL"] == "redis://r"
    assert environ["PATH"] == "/bin"
    assert environ["HF_TOKEN"] == "own"
    assert "HF_ENDPOINT" not in environ


def test_children_find_the_packages_but_nothing_that_lies_where_a_person_stands():
    own = machine(PYTHONPATH="/own")
    worker, *_ = worker_children(options(), common_environ(own, "redis://r", None), (11, 12), cores=1)
    for child in (hub_child(own, 9), worker):
        assert "-P" in child.argv
        assert child.environ["PYTHONPATH"] == f"/own{os.pathsep}{DEMO_REPOSITORIES.parents[2]}"


def test_a_secret_is_made_unless_one_is_set():
    assert common_environ(machine(), "r", None)["WARMBASE_SECRET"] == "fresh"
    assert common_environ(machine(WARMBASE_SECRET=""), "r", None)["WARMBASE_SECRET"] == "fresh"
    assert common_environ(machine(WARMBASE_SECRET="own"), "r", None)["WARMBASE_SECRET"] == "own"


def test_the_demo_keeps_a_persons_hub_token_and_downloads_to_themselves():
    own = machine(HF_TOKEN="own", HF_HUB_OFFLINE="1", HF_HUB_CACHE="/own", HUGGING_FACE_HUB_TOKEN="own")
    environ = common_environ(own, "r", demo_hub=HUB)
    assert {name: value for name, value in environ.items() if name.startswith("H")} == {
        "HF_ENDPOINT": HUB,
        "HF_HOME": "/downloads",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def test_the_demo_reaches_its_hub_past_a_proxy():
    environ = common_environ(machine(NO_PROXY="intranet"), "r", demo_hub=HUB)
    assert environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert environ["no_proxy"] == "127.0.0.1,localhost"


def test_a_worker_is_not_killed_while_its_drain_lasts():
    worker, *_ = worker_children(options(), {"WARMBASE_DRAIN": "120"}, (11, 12), cores=1)
    assert worker.grace > 120


def test_there_is_a_worker_for_each_base_and_they_share_the_cores():
    workers = worker_children(options(device="cuda:1", dtype="float16"), {}, (11, 12), cores=8)
    assert [worker.environ["WARMBASE_BASE"] for worker in workers] == list(DEMO_BASES)
    assert [worker.ready_url for worker in workers] == [
        "http://127.0.0.1:11/ready",
        "http://127.0.0.1:12/ready",
    ]
    for worker in workers:
        assert worker.environ["OMP_NUM_THREADS"] == "4"
        assert worker.environ["WARMBASE_DEVICE"] == "cuda:1"
        assert worker.environ["WARMBASE_DTYPE"] == "float16"


def test_more_workers_than_cores_get_a_thread_each():
    worker, _ = worker_children(options(), {}, (11, 12), cores=1)
    assert worker.environ["OMP_NUM_THREADS"] == "1"


def test_a_single_worker_and_a_chosen_number_of_threads_are_left_alone():
    (alone,) = worker_children(options(bases=DEMO_BASES[:1]), {}, (11,), cores=8)
    assert "OMP_NUM_THREADS" not in alone.environ
    assert alone.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    chosen, _ = worker_children(
        options(), {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}, (11, 12), cores=8
    )
    assert chosen.environ["OMP_NUM_THREADS"] == "3"
    assert chosen.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_unsaid_choices_are_left_to_the_environment():
    worker, _ = worker_children(options(), {"WARMBASE_DEVICE": "cpu"}, (11, 12), cores=8)
    assert worker.environ["WARMBASE_DEVICE"] == "cpu"
    assert "WARMBASE_DTYPE" not in worker.environ


def test_workers_are_called_by_the_short_name_where_that_is_clear():
    assert worker_names(("a/x", "b/y", "c/x")) == ("worker a/x", "worker y", "worker c/x")


def test_the_router_listens_where_it_is_told_and_is_asked_where_it_answers():
    router = router_child(options(host="::"), {}, port=8000)
    assert router.environ["WARMBASE_HOST"] == "::"
    assert router.environ["WARMBASE_PORT"] == "8000"
    assert router.ready_url == "http://[::1]:8000/ready"


@pytest.mark.parametrize(
    ("host", "url"),
    [("localhost", "http://localhost:1"), ("", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")],
)
def test_addresses_are_written_as_urls(host, url):
    assert local_url(host, 1) == url


def test_the_local_hub_serves_the_repositories_of_the_demo():
    hub = hub_child(machine(), port=9)
    assert str(DEMO_REPOSITORIES) in hub.argv
    assert hub.ready_url == f"{HUB}/health"


def test_all_roles_are_stopped_and_workers_live_while_the_router_answers():
    assert set(STOP_ORDER) == set(Role)
    assert STOP_ORDER.index(Role.ROUTER) < STOP_ORDER.index(Role.WORKER) < STOP_ORDER.index(Role.VALKEY)
