"""What `warmbase queue` says of queues and jobs: tables and pages for people, plain data for machines.

Whatever a caller wrote (prompts, names, what an error quotes) is shown without the characters that would
steer a terminal.
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from deploy.printable import printable
from deploy.table import Column, table
from shared.jobs import GenerationParams, JobRecord, JobResult, JobStatus
from shared.queue.terms import KnownJob, Overview
from shared.refs import AdapterRef, RepoId

NOTHING = "-"
_INDENT = "  "
_NARROWEST = 20
"""Columns that text gets, however narrow the terminal is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseLine:
    """One base of the list: how many live workers serve it, and how its queue stands."""

    base: RepoId
    workers: int
    queue: Overview


_BASES = (
    Column("BASE"),
    Column("MODE"),
    Column("WORKERS", ">"),
    Column("WAITING", ">"),
    Column("DELAYED", ">"),
    Column("RUNNING", ">"),
    Column("GIVEN UP", ">"),
    Column("OLDEST", ">"),
    Column("WORK", ">"),
)
_DEAD = (
    Column("JOB"),
    Column("GIVEN UP"),
    Column("ATTEMPTS", ">"),
    Column("CRASHES", ">"),
    Column("ERROR"),
    Column("MESSAGE"),
)


def bases_table(lines: Sequence[BaseLine], width: int | None) -> str:
    """Return the bases as a table; `width` as in `table`."""
    return table(_BASES, [_base_row(line) for line in lines], width)


def dead_table(records: Sequence[JobRecord], now: float, width: int | None) -> str:
    """Return jobs that were given up as a table; `width` as in `table`."""
    return table(_DEAD, [_dead_row(record, now) for record in records], width)


def _base_row(line: BaseLine) -> list[str]:
    queue = line.queue
    counts = (line.workers, queue.waiting, queue.delayed, queue.running, queue.given_up)
    return [
        line.base,
        queue.mode.value,
        *map(str, counts),
        duration(queue.oldest_wait) if queue.waiting else NOTHING,
        duration(queue.work) if queue.waiting + queue.delayed else NOTHING,
    ]


def _dead_row(record: JobRecord, now: float) -> list[str]:
    error = record.error
    return [
        record.id,
        ago(record.finished_at, now) if record.finished_at else NOTHING,
        str(record.attempts),
        str(record.crashes),
        error.code.value if error else NOTHING,
        printable(error.message) if error else NOTHING,
    ]


def why_not(record: JobRecord | None) -> str:
    """Return why a job cannot be run again or dropped: it is none that was given up."""
    if record is None:
        return "no such job, or its record has expired"
    if record.status is JobStatus.FAILED:
        return "failed for good, and is not kept to run again"
    return f"was not given up: its status is {record.status.value}"


def job_page(known: KnownJob, width: int | None) -> str:
    """Return all that is known of a job, one thing a line, in lines of at most `width`."""
    fields = [("Job", known.record.id), *_record_fields(known), *_request_fields(known)]
    size = max(len(label) for label, _ in fields) + len(_INDENT)
    return "\n".join(_labelled(label, _wrapped(text, width and width - size), size) for label, text in fields)


def _labelled(label: str, text: str, size: int) -> str:
    first, *others = text.split("\n")
    return "\n".join([f"{label:{size}}{first}", *(" " * size + line for line in others)])


def _wrapped(text: str, room: int | None) -> str:
    if room is None:
        return text
    size = max(_NARROWEST, room)
    return "\n".join(
        textwrap.fill(line, size, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


def _record_fields(known: KnownJob) -> list[tuple[str, str]]:
    record = known.record
    status = record.status.value
    why = ", given up" if known.given_up else ", as nobody waited for it" if record.unwanted else ""
    fields = [("Status", status + why)]
    if record.enqueued_at:  # else another version wrote the record
        fields.append(("Enqueued", _moment(record.enqueued_at, known.now)))
    if record.started_at:
        waited = duration(record.queue_wait)
        fields.append(("Started", f"{_moment(record.started_at, known.now)}, after {waited} of waiting"))
    if record.finished_at:
        fields.append(("Finished", _moment(record.finished_at, known.now)))
    fields += [("Attempts", str(record.attempts)), ("Crashes", str(record.crashes))]
    if record.progress and not record.status.is_end:
        done, total = record.progress
        fields.append(("Progress", f"{done} of {total} steps"))
    if record.error:
        error = record.error
        where = f" ({printable(error.field)})" if error.field else ""
        fields.append(("Error", f"{error.code.value}{where}: {printable(error.message)}"))
    return fields


def _request_fields(known: KnownJob) -> list[tuple[str, str]]:
    """What was asked for; where that is not kept, what was made."""
    job, result = known.job, known.record.result
    if job:
        return [
            ("Base", job.base),
            ("Adapters", _adapters(job.adapters)),
            *_prompts(job.params),
            ("Parameters", _params(job.params)),
            ("Priority", job.priority.value),
            ("Timeout", duration(job.timeout)),
        ]
    if result:
        return [
            ("Base", f"{result.base}\ncommit {result.base_revision}"),
            ("Adapters", _adapters(result.adapters)),
            ("Parameters", _result_params(result)),
            ("Image", f"{result.media_type}, {result.size:,} bytes"),
            ("Took", _timings(result)),
        ]
    kept = "not kept after its end" if known.record.status.is_end else "of another version"
    return [("Request", kept)]


def _adapters(adapters: Sequence[AdapterRef]) -> str:
    if not adapters:
        return "none: the bare base"
    return "\n".join(
        f"{adapter.repo}, strength {adapter.scale:g}{_varying(adapter)}\n"
        f"{_INDENT}commit {adapter.revision}\n"
        f"{_INDENT}file   {printable(adapter.weight_name)}"
        for adapter in adapters
    )


def _prompts(params: GenerationParams) -> list[tuple[str, str]]:
    prompts = [("Prompt", printable(params.prompt) or NOTHING)]
    if params.negative_prompt:
        prompts.append(("Negative", printable(params.negative_prompt)))
    return prompts


def _varying(adapter: AdapterRef) -> str:
    parts = [f"{path} x {factor:g}" for path, factor in adapter.blocks]
    times = [f"from {begin:.0%} of the steps x {factor:g}" for begin, factor in adapter.schedule]
    return "".join(f", {text}" for text in (*parts, *times))


def _params(params: GenerationParams) -> str:
    """What was chosen; the rest is left to the adapter's card and the base."""
    size = f"{params.width or 'any'} x {params.height or 'any'}" if params.width or params.height else None
    return ", ".join(
        text
        for text in (
            f"seed {params.seed}",
            params.steps and f"{params.steps} steps",
            size,
            f"guidance {params.guidance_scale:g}" if params.guidance_scale is not None else None,
            params.scheduler and printable(params.scheduler),
            params.timestep_spacing and f"{printable(params.timestep_spacing)} timesteps",
            params.source and "from a picture",
            f"strength {params.strength:g}" if params.strength is not None else None,
            params.image_format.value,
        )
        if text
    )


def _result_params(result: JobResult) -> str:
    return (
        f"seed {result.seed}, {result.steps} steps, {result.width} x {result.height}, "
        f"guidance {result.guidance_scale:g}, {printable(result.scheduler)}"
    )


def _timings(result: JobResult) -> str:
    spent = result.timings
    return (
        f"fetch {spent.fetch:.2f} s, swap {spent.swap:.3f} s, "
        f"inference {spent.inference:.2f} s, encode {spent.encode:.2f} s"
    )


def duration(seconds: float) -> str:
    """Return a time span for people, in at most two units, as `3 min 20 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, (long, short) in (
        (86400, 3600, ("d", "h")),
        (3600, 60, ("h", "min")),
        (60, 1, ("min", "s")),
    ):
        if whole >= large:
            count, rest = divmod(whole, large)
            tail = f" {rest // small} {short}" if rest >= small else ""
            return f"{count} {long}{tail}"
    return f"{whole} s"


def ago(then: float, now: float) -> str:
    """Return how long something is past, for people."""
    return f"{duration(max(0.0, now - then))} ago"


def _moment(then: float, now: float) -> str:
    return f"{datetime.fromtimestamp(then, UTC):%Y-%m-%d %H:%M:%S} UTC, {ago(then, now)}"


def bases_json(lines: Sequence[BaseLine]) -> str:
    """Return the bases as a JSON array."""
    return _json([{"base": line.base, "workers": line.workers, **asdict(line.queue)} for line in lines])


def dead_json(records: Sequence[JobRecord]) -> str:
    """Return jobs that were given up as a JSON array. Times are in seconds since the epoch."""
    return _json(
        [
            {
                "id": record.id,
                "given_up_at": record.finished_at,
                "attempts": record.attempts,
                "crashes": record.crashes,
                "error": asdict(record.error) if record.error else None,
            }
            for record in records
        ]
    )


def job_json(known: KnownJob) -> str:
    """Return all that is known of a job as a JSON object. Times are in seconds since the epoch."""
    asked = asdict(known.job) if known.job else None
    if asked:
        del asked[
            "sealed_token"
        ]  # a queue keeps it elsewhere; should that change, it is still no one's to see
    return _json({**asdict(known.record), "given_up": known.given_up, "job": asked})


def _json(value: object) -> str:
    return json.dumps(value, indent=2)
