"""Jobs, results, errors and records to and from bytes. Nothing else serialises them.

Decoding is strict: an unknown or missing field or a wrong type means a writer of another version, and is
an error rather than a guess.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, NewType, TypeVar, cast, get_args, get_origin

from shared.jobs import Job, JobError, JobId, JobRecord, JobResult, JobStatus

SCHEMA_VERSION = 3

RECORD_FIELDS = (
    "status",
    "attempts",
    "crashes",
    "enqueued_at",
    "started_at",
    "finished_at",
    "step",
    "total",
    "result",
    "error",
    "unwanted",
)
"""The fields of a job's hash that `decode_record` reads, in its order."""

T = TypeVar("T")


class CodecError(ValueError):
    """The bytes are not what this version writes."""


def encode_job(job: Job) -> bytes:
    """Return the job as JSON bytes that `decode_job` turns back into an equal job."""
    return _dump({"version": SCHEMA_VERSION, **asdict(job)})


def decode_job(data: bytes) -> Job:
    """Return the job that `encode_job` wrote.

    Raises:
        CodecError: the bytes were not written by `encode_job` of this version.
    """
    raw = _load(data)
    if not isinstance(raw, dict) or raw.pop("version", None) != SCHEMA_VERSION:
        raise CodecError("not a job of this version")
    return _read(Job, raw)


def encode_result(result: JobResult) -> bytes:
    """Return the result as JSON bytes that `decode_result` turns back into an equal result."""
    return _dump(asdict(result))


def decode_result(data: bytes) -> JobResult:
    """Return the result that `encode_result` wrote.

    Raises:
        CodecError: the bytes were not written by `encode_result` of this version.
    """
    return _read(JobResult, _load(data))


def encode_error(error: JobError) -> bytes:
    """Return the error as JSON bytes that `decode_error` turns back into an equal error."""
    return _dump(asdict(error))


def decode_error(data: bytes) -> JobError:
    """Return the error that `encode_error` wrote.

    Raises:
        CodecError: the bytes were not written by `encode_error` of this version.
    """
    return _read(JobError, _load(data))


def decode_record(job: JobId, values: Sequence[bytes | None]) -> JobRecord | None:
    """Return the record whose hash holds `values` in `RECORD_FIELDS`; None if there is no such hash.

    Raises:
        CodecError: the scripts of this version did not write it.
    """
    status, attempts, crashes, enqueued_at, started_at, finished_at, step, total, result, error, unwanted = (
        values
    )
    if status is None:
        return None
    try:
        return JobRecord(
            id=job,
            status=JobStatus(status.decode()),
            attempts=int(attempts or b""),
            crashes=int(crashes or b""),
            enqueued_at=float(enqueued_at or b""),
            started_at=float(started_at) if started_at else None,
            finished_at=float(finished_at) if finished_at else None,
            progress=(int(step), int(total)) if step and total and int(total) else None,
            result=decode_result(result) if result else None,
            error=decode_error(error) if error else None,
            unwanted=unwanted is not None,
        )
    except ValueError as problem:
        raise CodecError(f"not a record: {problem}") from problem


def _read(kind: type[T], raw: object) -> T:
    """Return a dataclass from a JSON object that has exactly its fields."""
    types = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(raw, dict) or raw.keys() != types.keys():
        raise CodecError(f"not the fields of a {kind.__name__}")
    return kind(**{name: _value(types[name], raw[name], name) for name in types})


def _value(kind: Any, raw: Any, name: str) -> Any:  # noqa: ANN401
    """Return a field's value from JSON, or raise: only what JSON cannot express is converted."""
    if isinstance(kind, NewType):
        kind = kind.__supertype__
    if isinstance(kind, UnionType):  # of a type and None
        return None if raw is None else _value(get_args(kind)[0], raw, name)
    if is_dataclass(kind):
        return _read(cast("type[Any]", kind), raw)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if isinstance(raw, list) and parts[-1] is Ellipsis:
            return tuple(_value(parts[0], item, name) for item in raw)
        if isinstance(raw, list) and len(raw) == len(parts):
            return tuple(_value(part, item, name) for part, item in zip(parts, raw, strict=True))
    elif issubclass(kind, StrEnum):
        if isinstance(raw, str) and raw in set(kind):
            return kind(raw)
    elif type(raw) is kind or (kind is float and type(raw) is int):
        return raw
    raise CodecError(f"{name} is no {kind.__name__}")


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _load(data: bytes) -> object:
    try:
        return json.loads(data, parse_constant=_no_constant)
    except ValueError as error:
        raise CodecError(f"not JSON: {error}") from error


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
