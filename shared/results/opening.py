"""From a URL to a store: which one it is is decided here alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.redis_client import command_client
from shared.results.file_store import FileResults
from shared.results.redis_store import RedisResults
from shared.results.store import ResultStore


@asynccontextmanager
async def open_results(url: str, *, ttl: int, most_bytes: int) -> AsyncIterator[ResultStore]:
    """Open the store at `url` (`file:///directory`, or an address of Redis), whose form is checked already.

    Connections to Redis are its own, so that images do not hold up what the queue has to say.

    Args:
        url: where the images are.
        ttl: seconds that they are kept.
        most_bytes: what all of them together may have.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        with closing(FileResults(Path(unquote(parts.path)), ttl=ttl, most_bytes=most_bytes)) as files:
            yield files
        return
    async with command_client(url) as redis:
        yield RedisResults(redis, ttl=ttl, most_bytes=most_bytes)
