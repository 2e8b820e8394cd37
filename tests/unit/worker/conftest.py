"""What several of these tests need."""

import pytest


class Clock:
    """Stands still until a test, or what plays a part in it, moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
