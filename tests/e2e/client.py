"""A client of a running service, no cleverer than curl."""

import io
import json
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from PIL import Image

ANSWER_SECONDS = 240.0
PROMPT = "a red circle on a white background"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The message of an answer that is no picture."""
        return str(json.loads(self.body)["error"])

    @property
    def picture(self) -> bytes:
        """The bytes of an answer that is a picture."""
        assert self.status == 200, self.body[:500]
        assert self.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(self.body)).size
        return self.body


class Client:
    """Asks a running service, as a person's program would."""

    def __init__(self, url: str) -> None:
        self.url = url

    def draw(
        self, model: str, prompt: str = PROMPT, token: str | None = None, **parameters: object
    ) -> Answer:
        """Ask for a small picture."""
        body = {"inputs": prompt, "parameters": {"seed": 1, "num_inference_steps": 4, **parameters}}
        return self.post(f"/models/{model}", json.dumps(body).encode(), token)

    def post(self, path: str, body: bytes, token: str | None = None) -> Answer:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return self._call("POST", path, body, headers)

    def get(self, path: str) -> Answer:
        return self._call("GET", path, None, {})

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        address = urlsplit(self.url)
        with closing(
            HTTPConnection(str(address.hostname), address.port, timeout=ANSWER_SECONDS)
        ) as connection:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=received, body=response.read())


def is_ready(url: str) -> bool:
    address = urlsplit(url)
    with suppress(OSError):
        return Client(f"http://{address.netloc}").get(address.path).status == 200
    return False
