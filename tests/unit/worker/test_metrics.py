from tests.builders import a_worker
from worker.metrics import Outcome, WorkerMetrics


def test_two_workers_of_one_process_do_not_share_their_numbers() -> None:
    one, other = WorkerMetrics(a_worker().base), WorkerMetrics(a_worker().base)
    one.finished(Outcome.SUCCEEDED)

    sample = 'warmbase_attempts_finished_total{base_model="warmbase/shapes-xl",outcome="succeeded"} 1.0'
    assert sample in one.exposition().decode()
    assert sample.replace("1.0", "0.0") in other.exposition().decode()


def test_what_the_worker_is_stands_in_its_info() -> None:
    metrics = WorkerMetrics(a_worker().base)
    metrics.describe(a_worker())

    info = next(
        line
        for line in metrics.exposition().decode().splitlines()
        if line.startswith("warmbase_worker_info{")
    )
    for part in ('worker="worker-1"', 'device="cpu"', 'dtype="float32"', "} 1.0"):
        assert part in info
