"""Who asks, as the queue sees it: the tenant, and what it promised about repeated requests."""

import hashlib

from router.schemas import GenerationRequest
from shared.queue.terms import IdempotencyKey

TENANT_LENGTH = 16


def tenant_of(token: str | None) -> str:
    """Return the tenant that a caller's token stands for; empty for all callers without one.

    A digest, because it becomes part of a key; tokens of the Hub are too random to be found from it.
    """
    if token is None:
        return ""
    return _digest(f"warmbase.tenant {token}")[:TENANT_LENGTH]


def idempotency_of(request: GenerationRequest, tenant: str) -> IdempotencyKey | None:
    """Return what a request's idempotency key promises: whatever this tenant sends with it is this request.

    The seed that the router draws for an open one is not part of the request.
    """
    key = request.idempotency_key
    if key is None:
        return None
    return IdempotencyKey(key=_digest(f"{tenant} {key}"), request=_digest(repr(request)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
