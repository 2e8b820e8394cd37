"""`python -m tests.null_worker`: a whole worker process around the null engine, for tests and benchmarks.

Configured like `python -m worker`; what is the null engine's own comes as arguments.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from shared.config import worker_config
from shared.jobs import JobResult
from shared.logs import configure_logging
from shared.queue.queue import JobQueue
from shared.queue.terms import Lease, QueueSettings
from tests.null_engine import NullEngine
from worker.__main__ import end_with
from worker.app import WorkerApp


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.null_worker")
    parser.add_argument("--step-seconds", type=float, default=0.0, help="duration of a denoising step")
    parser.add_argument("--steps", type=int, default=4, help="steps of a request that names none")
    parser.add_argument("--draws", type=Path, help="file that gets a line for each image that is begun")
    parser.add_argument("--lease", type=float, default=QueueSettings().lease, help="seconds of a lease")
    parser.add_argument("--max-crashes", type=int, default=QueueSettings().max_crashes)
    parser.add_argument("--max-adapter-crashes", type=int, default=QueueSettings().max_adapter_crashes)
    parser.add_argument("--dies", choices=("before", "after"), help="of its first complete")
    parser.add_argument("--clock-ahead", type=float, default=0.0, help="seconds that its clock is wrong by")
    arguments = parser.parse_args()
    if arguments.dies:
        die_when_completing(arguments.dies)
    be_wrong_about_the_time(arguments.clock_ahead)
    config = worker_config()
    configure_logging(config.common.log_level)

    def build(on_stage: Callable[[str], None]) -> NullEngine:
        on_stage("loading")
        return NullEngine(
            config.base,
            step_seconds=arguments.step_seconds,
            steps=arguments.steps,
            draws=arguments.draws,
        )

    settings = QueueSettings(
        lease=arguments.lease,
        max_crashes=arguments.max_crashes,
        max_adapter_crashes=arguments.max_adapter_crashes,
    )
    end_with(WorkerApp(config, build, settings))


def die_when_completing(moment: str) -> None:
    complete = JobQueue.complete

    async def dying(queue: JobQueue, lease: Lease, result: JobResult) -> bool:
        if moment == "after":
            await complete(queue, lease, result)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    JobQueue.complete = dying


def be_wrong_about_the_time(seconds: float) -> None:
    right = time.time
    time.time = lambda: right() + seconds


if __name__ == "__main__":
    main()
