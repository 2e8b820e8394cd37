"""One builder per core type: a valid value, changed where the test needs it."""

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.config import CommonConfig, WorkerConfig
from shared.errors import ErrorCode
from shared.jobs import (
    GenerationParams,
    Job,
    JobError,
    JobRecord,
    JobResult,
    JobStatus,
    Timings,
    WorkerId,
    new_job_id,
)
from shared.pools import WorkerInfo
from shared.queue.terms import Lease, Progress
from shared.refs import AdapterRef, RepoId, Revision

BASE = RepoId("warmbase/shapes-xl")
WORKER = WorkerId("worker-1")
COMMIT = Revision("0123456789abcdef0123456789abcdef01234567")


def a_worker_config(disk_folder: Path, redis_url: str, **changes: Any) -> WorkerConfig:
    """A worker of `BASE` on the CPU, in a megabyte of each tier; no Hub is there."""
    config = WorkerConfig(
        common=CommonConfig(
            redis_url=redis_url, hub="http://127.0.0.1:9", hub_token=None, secret=None, log_level="info"
        ),
        base=BASE,
        device="cpu",
        dtype="float32",
        compiled=False,
        host="127.0.0.1",
        probe_port=0,
        max_adapter_bytes=1 << 20,
        ram_budget=1 << 20,
        disk_folder=disk_folder,
        disk_budget=1 << 20,
        gpu_budget=1 << 20,
        pinned=frozenset(),
        drain=1.0,
        stall=1.0,
    )
    return replace(config, **changes)


def an_adapter(**changes: Any) -> AdapterRef:
    """An adapter pinned to a commit and a file."""
    adapter = AdapterRef(
        repo=RepoId("someone/crayon"), revision=COMMIT, weight_name="pytorch_lora_weights.safetensors"
    )
    return replace(adapter, **changes)


def some_params(**changes: Any) -> GenerationParams:
    """A prompt and a seed; all else is left to the base."""
    return replace(GenerationParams(prompt="a red circle", seed=7), **changes)


def a_job(**changes: Any) -> Job:
    """A fresh job on `BASE` with one adapter."""
    base = changes.get("base", BASE)
    job = Job(id=new_job_id(base), base=base, adapters=(an_adapter(),), params=some_params(), timeout=60.0)
    return replace(job, **changes)


def a_lease(**changes: Any) -> Lease:
    """The first attempt of a fresh job."""
    job = changes.pop("job", None) or a_job()
    return replace(Lease(job=job, worker=WORKER, fence=1, attempt=1, crashes=0), **changes)


def some_progress(**changes: Any) -> Progress:
    """Three steps of twenty."""
    lease = changes.pop("lease", None) or a_lease()
    return replace(Progress(lease=lease, step=3, total=20), **changes)


def known(digest: str = "") -> Future[str]:
    """A file's digest, when it has been hashed."""
    future = Future[str]()
    future.set_result(digest)
    return future


def some_timings(**changes: Any) -> Timings:
    """A hot swap and a short generation."""
    return replace(Timings(fetch=0.0, swap=0.004, inference=2.5, encode=0.03), **changes)


def a_result(**changes: Any) -> JobResult:
    """A small PNG made with `an_adapter()`."""
    result = JobResult(
        blob="0123456789abcdef-1",
        media_type="image/png",
        digest="ab" * 32,
        size=1234,
        base=BASE,
        base_revision=COMMIT,
        adapters=(an_adapter(),),
        adapter_digests=("cd" * 32,),
        seed=7,
        steps=20,
        guidance_scale=5.0,
        scheduler="EulerDiscreteScheduler",
        width=64,
        height=64,
        warnings=("someone/crayon: 1 of its layers match nothing in this base, such as 'unet.a'",),
        timings=some_timings(),
    )
    return replace(result, **changes)


def an_error(**changes: Any) -> JobError:
    """A worker's fault."""
    return replace(JobError(code=ErrorCode.WORKER_FAULT, message="the worker ran out of memory"), **changes)


def a_record(**changes: Any) -> JobRecord:
    """A job that waits."""
    record = JobRecord(
        id=new_job_id(BASE), status=JobStatus.QUEUED, attempts=0, crashes=0, enqueued_at=1_700_000_000.0
    )
    return replace(record, **changes)


def a_worker(**changes: Any) -> WorkerInfo:
    """A CPU worker of `BASE`."""
    worker = WorkerInfo(
        id=WORKER,
        base=BASE,
        base_revision=COMMIT,
        pipeline_class="StableDiffusionXLPipeline",
        device="cpu",
        dtype="float32",
        default_width=64,
        default_height=64,
        default_steps=20,
    )
    return replace(worker, **changes)
