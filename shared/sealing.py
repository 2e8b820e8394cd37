"""Secrets that travel through Redis: a caller's Hub token, encrypted with the deployment's key.

Redis writes what it holds to its log and its replicas; a token in plain text would outlive the request
there. Fernet (the `cryptography` package) encrypts and authenticates, and stamps the time.
"""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken


class SealError(ValueError):
    """The sealed text is not of this deployment's key, was changed, or is too old."""


class Sealer:
    """Encrypts and decrypts short texts with a key derived from the deployment's secret."""

    def __init__(self, secret: str) -> None:
        digest = hashlib.sha256(b"warmbase.sealing\0" + secret.encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(digest))

    def seal(self, text: str) -> str:
        """Return `text` encrypted, as URL-safe ASCII."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str, max_age: float) -> str:
        """Return the text that was sealed at most `max_age` seconds ago.

        Raises:
            SealError: another key, changed, or too old.
        """
        try:
            return self._fernet.decrypt(sealed.encode(), ttl=int(max_age)).decode()
        except InvalidToken as error:
            raise SealError("the sealed token cannot be opened with this deployment's secret") from error
