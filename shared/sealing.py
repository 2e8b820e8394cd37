"""Secrets that travel through Redis: a caller's Hub token, encrypted with the deployment's key.

Redis writes what it holds to its log and its replicas; a token in plain text would outlive the request
there. Fernet (the `cryptography` package) encrypts and authenticates, and stamps the time.
"""

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.fernet import Fernet, InvalidToken


class SealError(ValueError):
    """The sealed text is not of this deployment's key, was changed, or is too old."""


def _now() -> float:
    return datetime.now(UTC).timestamp()


class Sealer:
    """Encrypts and decrypts short texts with a key derived from the deployment's secret."""

    def __init__(self, secret: str, clock: Callable[[], float] = _now) -> None:
        """`clock` gives seconds since the epoch."""
        self._clock = clock
        digest = hashlib.sha256(b"warmbase.sealing\0" + secret.encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(digest))

    def seal(self, text: str) -> str:
        """Return `text` encrypted, as URL-safe ASCII."""
        return self._fernet.encrypt_at_time(text.encode(), int(self._clock())).decode()

    def open(self, sealed: str, max_age: float) -> str:
        """Return the text that was sealed at most `max_age` seconds ago.

        The sealer's clock may be ahead of this one: Fernet's own check of the age would refuse that.

        Raises:
            SealError: another key, changed, or too old.
        """
        try:
            text = self._fernet.decrypt(sealed.encode()).decode()
            sealed_at = self._fernet.extract_timestamp(sealed.encode())
        except InvalidToken as error:
            raise SealError("the sealed token cannot be opened with this deployment's secret") from error
        if self._clock() - sealed_at > max_age:
            raise SealError(f"the token was sealed more than {max_age:g} s ago")
        return text
