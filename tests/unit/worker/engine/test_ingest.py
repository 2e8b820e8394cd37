"""The hash of a file's bytes, beside what is done with them."""

import hashlib
from typing import cast

import pytest

from worker.engine.contract import AdapterFault
from worker.engine.ingest import HASHED_AT_ONCE, _hashed_beside


class Endless:
    """Bytes that take a day to hash."""

    def __len__(self) -> int:
        return 1 << 48

    def __getitem__(self, part: slice) -> bytes:
        return bytes(HASHED_AT_ONCE)


@pytest.mark.parametrize("size", [0, 1, HASHED_AT_ONCE, 2 * HASHED_AT_ONCE + 1])
def test_the_digest_is_that_of_all_bytes(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    with _hashed_beside(memoryview(content)[:size]) as digest:
        pass
    assert digest.result() == hashlib.sha256(content[:size]).hexdigest()


def test_a_refusal_does_not_wait_for_the_digest() -> None:
    with pytest.raises(AdapterFault, match="of another base"), _hashed_beside(cast("memoryview", Endless())):
        raise AdapterFault("of another base")
