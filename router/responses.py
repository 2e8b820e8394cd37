"""Answers: images with headers that say what really ran, jobs, classifications, problems."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import assert_never

from aiohttp import web

from router.classify import Classification, FullModel, LoraAdapter, Unsupported
from router.few_step import few_step_defaults
from router.hub_metadata import CardDefaults, completed
from router.problems import Problem, problem_of_end
from shared.jobs import JobId, JobRecord, JobResult
from shared.pools import BasePool
from shared.refs import RepoId

REQUEST_ID = "X-Request-Id"
LONGEST_HEADER = 500
LONGEST_LIST = 4000


def image_headers(record: JobRecord, result: JobResult) -> dict[str, str]:
    """Return the headers that tell how an image was made, as its worker recorded it."""
    spent = result.timings
    strength = {} if result.strength is None else {"X-Warmbase-Strength": f"{result.strength:g}"}
    warning = {"X-Warmbase-Warning": _header_text("; ".join(result.warnings))} if result.warnings else {}
    return {
        "X-Job-Id": record.id,
        "X-Warmbase-Base": result.base,
        "X-Warmbase-Base-Commit": result.base_revision,
        "X-Warmbase-Adapters": _adapters_header(result),
        "X-Warmbase-Digest": result.digest,
        "X-Warmbase-Seed": str(result.seed),
        "X-Warmbase-Steps": str(result.steps),
        "X-Warmbase-Guidance-Scale": f"{result.guidance_scale:g}",
        "X-Warmbase-Scheduler": result.scheduler,
        "X-Warmbase-Queue-Seconds": f"{record.queue_wait:.3f}",
        "X-Warmbase-Fetch-Seconds": f"{spent.fetch:.3f}",
        "X-Warmbase-Swap-Seconds": f"{spent.swap:.4f}",
        "X-Warmbase-Inference-Seconds": f"{spent.inference:.3f}",
        "X-Compute-Time": f"{spent.swap + spent.inference + spent.encode:.3f}",
        **strength,
        **warning,
    }


def _adapters_header(result: JobResult) -> str:
    """Return the adapters that were in the weights as JSON, without what was not asked for.

    Clients and proxies refuse long headers: then parts and schedules are left out, which the request had.
    """
    views = [
        {name: value for name, value in asdict(adapter).items() if value != ()} for adapter in result.adapters
    ]
    for view, digest in zip(views, result.adapter_digests, strict=False):
        view["sha256"] = digest
    text = json.dumps(views)
    if len(text) <= LONGEST_LIST:
        return text
    return json.dumps(
        [
            {name: "left out" if name in {"blocks", "schedule"} else value for name, value in view.items()}
            for view in views
        ]
    )


def path_commit(model: RepoId, result: JobResult) -> str:
    """Return the commit of the path's model that really ran."""
    return next((ref.revision for ref in result.adapters if ref.repo == model), result.base_revision)


def image_response(
    image: bytes, result: JobResult, headers: dict[str, str], *, as_json: bool
) -> web.Response:
    """Return the image as bytes, or wrapped into JSON."""
    if not as_json:
        return web.Response(body=image, content_type=result.media_type, headers=headers)
    body = {
        "data": [{"b64_json": base64.b64encode(image).decode()}],
        "media_type": result.media_type,
        "seed": result.seed,
        "width": result.width,
        "height": result.height,
        "steps": result.steps,
    }
    return web.json_response(body, headers=headers)


def job_view(record: JobRecord) -> dict[str, object]:
    """Return a job as clients see it. What is not known yet is null."""
    problem = problem_of_end(record) if record.status.is_end else None
    result = record.result
    # the last heartbeat may have been before the last step
    step, total = (result.steps, result.steps) if result else record.progress or (None, None)
    return {
        "id": record.id,
        "status": record.status.value,
        "attempts": record.attempts,
        "progress": {"step": step, "total": total},
        "enqueued_at": record.enqueued_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "queue_seconds": record.queue_wait if record.started_at else None,
        "timings": asdict(result.timings) if result else None,
        "result": {**image_headers(record, result), "Content-Type": result.media_type} if result else None,
        "error": {"code": problem.code.value, "message": problem.message} if problem else None,
        "links": {"self": job_path(record.id), "image": f"{job_path(record.id)}/image"},
    }


def job_path(job: JobId) -> str:
    """Return where the job is found."""
    return f"/jobs/{job}"


def classification_view(found: Classification, pools: Sequence[BasePool]) -> dict[str, object]:
    """Return what an id is, and why, as clients see it."""
    return {
        "id": found.repo,
        "commit": found.revision,
        **_kind_view(found),
        "evidence": list(found.evidence),
        "served": bool(pools),
        "served_by": [
            {"base": pool.base, "workers": len(pool.workers), "copy_of": pool.copy_of} for pool in pools
        ],
    }


def _kind_view(found: Classification) -> dict[str, object]:
    match found:
        case LoraAdapter():
            return {
                "kind": "lora",
                "base": found.bases[0],
                "bases": list(found.bases),
                "weight_name": found.weight_name,
                "weight_files": list(found.weight_files),
                "restricted": found.restricted,
                "defaults": asdict(_defaults(found)),
                "trigger": found.trigger or None,
            }
        case FullModel():
            return {"kind": "full", "base": found.repo, "pipeline_class": found.pipeline_class or None}
        case Unsupported():
            return {"kind": "unsupported", "reason": found.reason}
        case _:
            assert_never(found)


def _defaults(found: LoraAdapter) -> CardDefaults:
    """Return what a request that leaves all open gets."""
    needs = few_step_defaults(found.repo, found.weight_name) if found.weight_name else None
    return completed(found.defaults, needs)


def problem_response(problem: Problem) -> web.Response:
    """Return an error: a string for people, a stable code for programs, both in headers, too."""
    body: dict[str, object] = {"error": problem.message, "error_type": problem.code.value}
    if problem.field is not None:
        body["field"] = problem.field
    if problem.choices:
        body["choices"] = list(problem.choices)
    headers = {"X-Error-Code": problem.code.value, "X-Error-Message": _header_text(problem.message)}
    if problem.job is not None:
        headers["X-Job-Id"] = problem.job
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return web.json_response(body, status=problem.status, headers=headers)


def _header_text(text: str) -> str:
    """Return `text` as a header can carry it: printable ASCII, one line, not too long."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return "".join(character if character.isprintable() else " " for character in plain)[:LONGEST_HEADER]
