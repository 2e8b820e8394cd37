"""Steps that tests of several packages take with a queue."""

from shared.jobs import WorkerId
from shared.queue.queue import JobQueue
from shared.queue.terms import Lease


async def claim_one(queue: JobQueue, worker: WorkerId, token: str) -> Lease | None:
    """Claim one job as a worker that holds no adapters; None when none is to be had."""
    claim = await queue.claim(worker, token)
    return claim.leases[0] if claim.leases else None
