"""A job as data: what is asked for, what happened to it, and which changes of state are legal."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

from shared.errors import ErrorCode, InvalidRequest
from shared.refs import BASE_TAG_LENGTH, AdapterRef, RepoId, base_tag

JobId = NewType("JobId", str)
"""The tag of the job's base, a hyphen, and 128 random bits: any router finds the record from it."""

WorkerId = NewType("WorkerId", str)

_RANDOM_BYTES = 16
AFFINITY_LENGTH = 16
MAX_SEED = 2**63 - 1


class JobStatus(StrEnum):
    """Where a job is. The last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens to the job by itself."""
        return not NEXT_STATUS[self]


NEXT_STATUS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
        JobStatus.RUNNING: frozenset(
            # back to queued: released by a draining worker, retried, or reaped from a dead one
            {JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
        ),
        JobStatus.SUCCEEDED: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }
)
"""The legal changes of state; the Lua scripts make no other.

But for two ends that may be taken back: of a job that was given up, by the operator; of one that was
cancelled as unwanted, by the router that wants it after all.
"""


class Priority(StrEnum):
    """Which jobs come first; a lower one gets its turn when it has waited too long."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class ImageFormat(StrEnum):
    """The image formats a client may ask for."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """The media type of `Accept` and `Content-Type`."""
        return f"image/{self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationParams:
    """What to draw. `None` leaves a choice to the adapter's card, then to the base.

    Attributes:
        width: pixels.
        height: pixels.
        steps: denoising steps.
        seed: fixed when the job is made, so that a second attempt draws the same image.
        scheduler: the class name of a diffusers scheduler.
        timestep_spacing: the option of that name that it is made with; the base's own when None.
        source: SHA-256 of the picture that the drawing starts from, hexadecimal; None to draw from noise.
            Its bytes are in the result store, under a name that this gives.
        strength: how much of that picture is drawn anew, from 0 to 1.
    """

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int
    scheduler: str | None = None
    timestep_spacing: str | None = None
    image_format: ImageFormat = ImageFormat.PNG
    source: str | None = None
    strength: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One image to make on one base.

    Attributes:
        adapters: pinned to commit and file; empty for the bare base.
        sealed_token: the caller's Hub token, encrypted (`shared.sealing`), for adapters that only the
            caller may read; None for public ones.
        timeout: seconds from enqueue until nobody waits for the answer any more.
        tenant: a digest of whom the job is for; tenants share a base fairly. Empty for nobody in particular.
        weight: the tenant's share, relative to the others'.
    """

    id: JobId
    base: RepoId
    adapters: tuple[AdapterRef, ...]
    params: GenerationParams
    sealed_token: str | None = None
    timeout: float
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    weight: float = 1.0

    @property
    def affinity(self) -> str:
        """What a worker holds already if it has run such a job: a digest of the set of weight files.

        Strengths do not count, because changing them needs no file. Empty for the bare base.
        """
        if not self.adapters:
            return ""
        files = sorted(f"{each.repo}@{each.revision}/{each.weight_name}" for each in self.adapters)
        return hashlib.sha256("\n".join(files).encode()).hexdigest()[:AFFINITY_LENGTH]

    @property
    def work(self) -> int:
        """Steps x pixels, what the cost is in proportion to; 0 when that is left to the base.

        From a picture, only the part of the steps that its strength says is made.
        """
        params = self.params
        work = (params.steps or 0) * (params.width or 0) * (params.height or 0)
        return work if params.strength is None else round(work * params.strength)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds that an attempt spent, measured by the worker's monotonic clock."""

    fetch: float
    swap: float
    inference: float
    encode: float


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """What a worker made, and what really was in the weights when it did.

    Attributes:
        blob: the name of the image in the result store.
        base: what it was drawn with, and at which commit: `base_revision`.
        digest: SHA-256 of the image's bytes, hexadecimal.
        size: bytes.
        adapter_digests: those of the weight files that were in the weights, in the order of `adapters`.
        steps: the steps that really ran, as are `guidance_scale`, `scheduler`, `width`, `height`.
        strength: how much of the picture that it started from was drawn anew; None without one.
        warnings: what the caller should know about the picture, such as parts of an adapter that the base
            has no place for; each is a line, and bounded by the worker.
    """

    blob: str
    media_type: str
    digest: str
    size: int
    base: RepoId
    base_revision: str
    adapters: tuple[AdapterRef, ...]
    adapter_digests: tuple[str, ...] = ()
    seed: int
    steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    strength: float | None = None
    warnings: tuple[str, ...] = ()
    timings: Timings


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """Why a job failed: a code of the error tree, a message for people, and the request's field at fault."""

    code: ErrorCode
    message: str
    field: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """A job as Redis knows it: the truth, where a published id is only a hint.

    Attributes:
        attempts: how often it was claimed.
        crashes: how many of these ended with the worker's death.
        enqueued_at: seconds since the epoch, by the server's clock, as are the other times.
        progress: denoising steps done and to do; None until it is known how many.
        unwanted: whether nobody cancelled it: the router that alone waited for it seemed to be gone. One that
            was not enqueues the job again.
    """

    id: JobId
    status: JobStatus
    attempts: int
    crashes: int
    enqueued_at: float
    started_at: float | None = None
    finished_at: float | None = None
    progress: tuple[int, int] | None = None
    result: JobResult | None = None
    error: JobError | None = None
    unwanted: bool = False

    @property
    def queue_wait(self) -> float:
        """Seconds from enqueue to the last claim; never negative."""
        return max(0.0, (self.started_at or self.enqueued_at) - self.enqueued_at)


def new_job_id(base: RepoId) -> JobId:
    """Return a fresh id for a job on `base`; unguessable, because it is all one needs to read it."""
    return JobId(f"{base_tag(base)}-{secrets.token_hex(_RANDOM_BYTES)}")


def parse_job_id(text: str) -> JobId:
    """Return `text` as a job id.

    Raises:
        InvalidRequest: it does not have the form of one.
    """
    tag, _, rest = text.partition("-")
    if len(tag) != BASE_TAG_LENGTH or len(rest) != 2 * _RANDOM_BYTES or not _is_hex(tag + rest):
        raise InvalidRequest("job", "not a job id")
    return JobId(text)


def job_base_tag(job_id: JobId) -> str:
    """Return the tag of the base that `job_id` is queued on."""
    return job_id[:BASE_TAG_LENGTH]


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
