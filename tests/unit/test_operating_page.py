"""`docs/operating.md` and the README name every error, metric, exit code and variable that there is."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from router import __main__ as router_main
from router import problems
from router.metrics import Metrics
from shared.config import router_config, worker_config
from shared.errors import ErrorCode
from tests.builders import BASE, a_worker
from worker import __main__ as worker_main
from worker.exit_codes import ExitCode
from worker.metrics import WorkerMetrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operating.md").read_text()
README = (ROOT / "README.md").read_text()
METRIC = re.compile(r"`(warmbase_\w+)`")


def metrics_of(registry: CollectorRegistry) -> set[str]:
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if family.name.startswith("warmbase_")
    }


def test_every_error_has_its_status_and_the_time_after_which_to_come_again():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w*) ?\|", PAGE, re.MULTILINE)
    assert {code: int(status) for code, status, _ in rows} == dict(problems.STATUS.items())
    seconds = {code: float(after) for code, _, after in rows if after.isdecimal()}
    assert seconds == dict(problems.RETRY_AFTER)
    assert [code for code, _, after in rows if after == "computed"] == [ErrorCode.QUEUE_FULL]


def test_every_metric_is_named_and_none_that_is_not_there():
    of_worker = WorkerMetrics(BASE)
    of_worker.describe(a_worker())
    there = metrics_of(Metrics()._registry) | metrics_of(of_worker.registry)
    assert set(METRIC.findall(PAGE)) == there


def test_every_exit_code_is_named():
    rows = re.findall(r"^\| (\d) \| ", PAGE, re.MULTILINE)
    assert [int(row) for row in rows] == [code.value for code in ExitCode]


class Asked(dict[str, str]):
    """An environment that notes which variables were looked for."""

    def __init__(self, **values: str) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)


@pytest.mark.parametrize(
    ("read", "told", "of_others"),
    [
        (router_config, router_main.VARIABLES, {"HF_TOKEN"}),
        (worker_config, worker_main.VARIABLES, set()),
    ],
    ids=["router", "worker"],
)
def test_every_variable_of_a_process_is_in_the_readme_and_in_its_help(read, told, of_others):
    environ = Asked(WARMBASE_BASE=BASE)
    read(environ)
    assert environ.names
    for name in environ.names - of_others:
        assert f"`{name}`" in README
        assert f"  {name} " in told
