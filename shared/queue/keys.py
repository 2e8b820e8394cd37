"""Every Redis key, with its type and lifetime. Nothing else spells a key.

All keys of a base share the hash tag `{tag}`, so that one script may touch them on a cluster. The tag is
a digest (`shared.refs.base_tag`), never text of a user.

| key | type | holds | lifetime |
|---|---|---|---|
| `P:ready` | sorted set | waiting job id -> schedule score | while jobs wait |
| `P:age` | sorted set | waiting job id -> time of enqueue | while jobs wait |
| `P:active` | sorted set | running job id -> lease deadline | while jobs run |
| `P:job:ID` | hash | the job's record | `record_ttl` after its end, or else its deadline |
| `P:meta` | hash | the last place and the last fence given | permanent, one per base |
| `P:wake` | sorted set | one marker member: work is there | while jobs wait |
| `P:worker:ID` | hash | the worker's last claim: token, job, fence | `claim_memory` after it |
| `P:blob:NAME` | string | an image | the result store's `ttl` |
| `P:done`, `P:control` | channels | job ids: finished; cancelled | - |
| `warmbase:pools` | sorted set | description of a live worker -> its expiry | entries leave on expiry |

`P` is `warmbase:1:{tag}`; the number is the version of this layout.
"""

LAYOUT_VERSION = 1
PREFIX = f"warmbase:{LAYOUT_VERSION}"

POOLS = "warmbase:pools"
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
        ]

    def job(self, job_id: str) -> str:
        """The record of one job."""
        return f"{self.prefix}:job:{job_id}"

    def worker(self, worker_id: str) -> str:
        """The last claim of one worker."""
        return f"{self.prefix}:worker:{worker_id}"

    def blob(self, name: str) -> str:
        """One image."""
        return f"{self.prefix}:blob:{name}"
