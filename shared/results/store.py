"""What a store of images promises, whatever it stands on."""

import re
from typing import Protocol

from shared.errors import WorkerFault
from shared.queue.terms import Lease
from shared.refs import RepoId, base_tag

GONE = "the image has expired; run the job again"
SOURCE_GONE = "the picture that the job starts from has expired; send the request again"
NO_ROOM = "there is no room for the image, even without the older ones"

SOURCE_DIGITS = 32
"""Of a digest, in the place of an id's random ones."""

_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}-[0-9]{1,19}")


class ResultStore(Protocol):
    """Images of all bases, each under a name that only one attempt writes, and pictures that jobs start from.

    All of them together stay within a number of bytes: the oldest go first.
    """

    async def put(self, lease: Lease, data: bytes) -> str:
        """Keep `data` for a while and return the name to put into the job's result. May be repeated.

        Raises:
            ImageTooLarge: it alone is larger than all images together may be.
            NoRoom: there is none, and none can be made now.
            WorkerFault: the disk fails.
            QueueUnavailable: the server does not answer.
        """

    async def put_source(self, base: RepoId, digest: str, data: bytes, seconds: float) -> None:
        """Keep a picture that jobs of `base` start from, as `source_name`. The same one is kept once.

        It counts as the images do, and is kept for `seconds` at least, unless later ones need the room.

        Raises:
            as `put`.
        """

    async def get(self, name: str) -> bytes:
        """Return the image.

        Raises:
            ResultGone: its time is over, or it made room for later ones.
            WorkerFault: the disk fails.
            QueueUnavailable: the server does not answer.
        """


class ImageTooLarge(WorkerFault):
    """The image can never be kept, so another attempt is of no use."""

    retryable = False

    def __init__(self, size: int, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        super().__init__(
            f"the image has {size} bytes, but all images together may have {most_bytes}:"
            " raise WARMBASE_RESULTS_BYTES"
        )


def attempt_name(lease: Lease) -> str:
    """Return the name that only this attempt writes. It begins with the job's id."""
    return f"{lease.job.id}-{lease.fence}"


def source_name(base: RepoId, digest: str) -> str:
    """Return the name of a picture that jobs start from. No attempt writes it: their fences begin with 1."""
    return f"{base_tag(base)}-{digest[:SOURCE_DIGITS]}-0"


def is_name(text: str) -> bool:
    """Whether `text` is such a name, and so harmless as part of a path."""
    return _NAME.fullmatch(text) is not None
