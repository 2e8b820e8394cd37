"""Every Redis key, with its type and lifetime. Nothing else spells a key.

All keys of a base share the hash tag `{tag}`, so that one script may touch them on a cluster. The tag is
a digest (`shared.refs.base_tag`), never text of a user.

| key | type | holds | lifetime |
|---|---|---|---|
| `P:ready` | sorted set | waiting job id -> schedule score | while jobs wait |
| `P:age` | sorted set | waiting job id -> time of enqueue | while jobs wait |
| `P:deadlines` | sorted set | waiting or delayed job id -> when it expires | while they wait |
| `P:adapter:AFFINITY` | sorted set | as `ready`, the jobs of one affinity | while they wait |
| `P:delayed` | sorted set | job id -> when its next attempt is due | while jobs are delayed |
| `P:active` | sorted set | running job id -> lease deadline | while jobs run |
| `P:dead` | sorted set | job id that is given up -> when it was | `dead_ttl`, at most `max_dead` |
| `P:job:ID` | hash | the job's record | until its end, then `record_ttl`; `dead_ttl` if it is given up |
| `P:meta` | hash | last fence, virtual times, costs, backlog, mode | permanent, one per base |
| `P:tags` | sorted set | priority and tenant -> the last score given | until virtual time reaches it |
| `P:tenants` | hash | tenant -> how many of its jobs wait | fields leave at zero |
| `P:overtakers` | sorted set | fence of a claim that passed waiting jobs -> its score | while these wait |
| `P:deaths:AFFINITY` | sorted set | worker that died with these -> when it did | `quarantine`, or a success |
| `P:idempotency:DIGEST` | string | job of a key, digest of its request | 2 timeouts, `record_ttl` |
| `P:wake` | sorted set | one marker member: work is there | while jobs wait |
| `P:worker:ID` | hash | the worker's last claim: token, job, fence | `claim_memory` after it |
| `P:blob:NAME` | string | an image, or what one starts from | the store's `ttl`, or until others need it |
| `P:blobs` | sorted set | size and key of an image -> when it expires | `ttl` after the last one |
| `P:blob-bytes` | string | the sum of these sizes | `ttl` after the last one |
| `P:routers` | sorted set | router -> until when it is there | entries leave with the next look at them |
| `P:done`, `P:control` | channels | job ids: finished; cancelled | - |
| `warmbase:3:{warmbase:pools}:bases` | sorted set | tag of a base -> when it last had a worker | eight days |
| `warmbase:pools` | sorted set | description of a live worker -> its expiry | entries leave on expiry |

`P` is `warmbase:3:{tag}`; the number is the version of this layout.
"""

LAYOUT_VERSION = 3
PREFIX = f"warmbase:{LAYOUT_VERSION}"

POOLS = "warmbase:pools"
BASES = f"{PREFIX}:{{{POOLS}}}:bases"
"""In the slot of `POOLS`: in a cluster, one node decides on announcements."""

ALL_BASES = "all"
"""Stands for a tag where the images of all bases are counted together: in `P:blobs` and `P:blob-bytes`."""

DONE_PATTERN = f"{PREFIX}:{{*}}:done"


class BaseKeys:
    """The keys of one base, from its tag."""

    def __init__(self, tag: str) -> None:
        self.prefix = f"{PREFIX}:{{{tag}}}"
        self.ready = f"{self.prefix}:ready"
        self.age = f"{self.prefix}:age"
        self.active = f"{self.prefix}:active"
        self.meta = f"{self.prefix}:meta"
        self.wake = f"{self.prefix}:wake"
        self.done = f"{self.prefix}:done"
        self.control = f"{self.prefix}:control"
        self.deadlines = f"{self.prefix}:deadlines"
        self.delayed = f"{self.prefix}:delayed"
        self.dead = f"{self.prefix}:dead"
        self.tags = f"{self.prefix}:tags"
        self.tenants = f"{self.prefix}:tenants"
        self.overtakers = f"{self.prefix}:overtakers"
        self.routers = f"{self.prefix}:routers"
        self.blobs = f"{self.prefix}:blobs"
        self.blob_bytes = f"{self.prefix}:blob-bytes"

    def of_queue(self) -> list[str]:
        """What every script of the queue declares, in the order of `lua/record.lua`."""
        return [
            self.ready,
            self.age,
            self.active,
            self.meta,
            self.wake,
            self.job(""),
            self.done,
            self.control,
            self.deadlines,
            self.delayed,
            self.dead,
            self.tags,
            self.tenants,
            self.overtakers,
            self.adapter(""),
            self.deaths(""),
            self.idempotency(""),
            self.routers,
        ]

    def job(self, job_id: str) -> str:
        """The record of one job."""
        return f"{self.prefix}:job:{job_id}"

    def adapter(self, affinity: str) -> str:
        """The waiting jobs of one affinity."""
        return f"{self.prefix}:adapter:{affinity}"

    def deaths(self, affinity: str) -> str:
        """The workers that died with one affinity."""
        return f"{self.prefix}:deaths:{affinity}"

    def idempotency(self, digest: str) -> str:
        """What a client's idempotency key stands for."""
        return f"{self.prefix}:idempotency:{digest}"

    def worker(self, worker_id: str) -> str:
        """The last claim of one worker."""
        return f"{self.prefix}:worker:{worker_id}"

    def blob(self, name: str) -> str:
        """One image."""
        return f"{self.prefix}:blob:{name}"
