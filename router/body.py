"""The body of a generation request: JSON, a bare prompt, a picture, or something that is not served."""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field

from router.fields import Fields, checked_text, reject
from shared.config import Limits
from shared.errors import InvalidRequest

INPUTS = "inputs"

MOST_VALUES = 20_000
"""In a JSON body, at most. The longest prompts could hold half as many commas; a parser that is given the
millions that a picture's bytes leave room for would hold up everybody else for seconds."""

_SERVED_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_OTHER_STARTS = (b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_BASE64_IMAGE_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD")
_DATA_URL = re.compile(r"data:[^,\s]*,", re.IGNORECASE)
_IMAGE_URL = re.compile(r"data:(?:image/[^,\s]*|[^,\s]*;base64),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_LONGEST_WORD = 60
"""Characters. Longer base64 is nothing that anybody asks to have drawn, but an image, of whatever kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """The picture that a drawing starts from, not decoded. `digest`, SHA-256, stands for it in texts."""

    data: bytes = field(repr=False)
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What a body holds: a prompt, or a picture whose prompt is in `fields`; and all other fields."""

    prompt: str
    source: SourcePicture | None = None
    fields: Fields


def read_body(body: bytes, content_type: str, limits: Limits) -> Body:
    """Return what the body holds.

    A body is JSON if its type says so or, with no or another type, if it looks like it: `curl -d` sends
    JSON as a form. Bytes of an image are one, and need not say so. Everything else that is text is the
    prompt, as the first service of this wire took it.

    Raises:
        InvalidRequest: none of these; or a picture of another kind than PNG, JPEG and WebP, or too large.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media.startswith("multipart/"):
        reject("body", "a form is not taken: send JSON, or the bytes of the image alone")
    if media.startswith("image/") or _is_served(body) or body.startswith(_OTHER_STARTS):
        return Body(prompt="", source=_picture(body, limits), fields=Fields({}))
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest("body", "is neither JSON nor text in UTF-8") from error
    if media.endswith("json") or (media != "text/plain" and text.lstrip()[:1] in {"{", "[", '"'}):
        return _read_json(text, limits)
    return _read_inputs(text, Fields({}), limits)


def _read_json(text: str, limits: Limits) -> Body:
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        reject("body", f"has more than {MOST_VALUES} values")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("body", f"is not valid JSON: {_reason(error)}") from error
    if isinstance(value, str):
        return _read_inputs(value, Fields({}), limits)
    if not isinstance(value, dict):
        reject("body", "has to be a JSON object with 'inputs', or a JSON string")
    inputs, parameters = value.get(INPUTS), value.get("parameters")
    if inputs is None:
        reject(INPUTS, "is missing: it holds the prompt, or an image in base64")
    if not isinstance(inputs, str):
        reject(INPUTS, "has to be a string")
    fields = Fields(value)
    fields.skip(INPUTS)
    # Who gives the prompt elsewhere means a picture here: a broken one shall not be read as a prompt.
    if isinstance(parameters, dict) and parameters.get("prompt") is not None:
        return Body(prompt="", source=_picture_of_text(inputs, limits), fields=fields)
    return _read_inputs(inputs, fields, limits)


def _read_inputs(text: str, fields: Fields, limits: Limits) -> Body:
    """A picture is told from a prompt by the way that base64 of an image, or a data: URL, begins."""
    bare = text.strip()
    if bare.startswith(_BASE64_IMAGE_STARTS) or _IMAGE_URL.match(bare) or _is_base64(bare):
        return Body(prompt="", source=_picture_of_text(text, limits), fields=fields)
    return Body(prompt=checked_text(text, INPUTS, limits.max_prompt), fields=fields)


def _is_base64(text: str) -> bool:
    return len(text) > _LONGEST_WORD and len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


def _picture_of_text(text: str, limits: Limits) -> SourcePicture:
    text = text.strip()
    if head := _DATA_URL.match(text):
        if not head[0].lower().endswith(";base64,"):
            reject(INPUTS, "a data: URL of an image ends its head with ';base64'")
        text = text[head.end() :]
    text = "".join(text.split())  # some encoders break lines
    if len(text) > 4 * (limits.max_source_bytes // 3 + 1):
        reject(INPUTS, _too_long(limits))
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(
            INPUTS, "has to be an image in base64, as parameters.prompt is the prompt; no address is fetched"
        ) from error
    return _picture(data, limits)


def _picture(data: bytes, limits: Limits) -> SourcePicture:
    """Return the picture. Only its first bytes are looked at: no decoder runs in the router."""
    if not _is_served(data):
        reject(INPUTS, "is no PNG, JPEG or WebP image")
    if len(data) > limits.max_source_bytes:
        reject(INPUTS, _too_long(limits))
    return SourcePicture(data=data, digest=hashlib.sha256(data).hexdigest())


def _is_served(data: bytes) -> bool:
    return data.startswith(_SERVED_STARTS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _too_long(limits: Limits) -> str:
    return f"an image has at most {limits.max_source_bytes} bytes"


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}"
    return "nested too deep, or a number too long"
