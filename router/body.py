"""The body of a generation request: JSON, a bare prompt, or something that is not served."""

import json

from router.fields import Fields, checked_text, reject
from shared.errors import InvalidRequest

NOT_SERVED = "image-to-image is not served yet: send a prompt"

_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_BASE64_IMAGE_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD", "data:image/")


def read_body(body: bytes, content_type: str, longest_prompt: int) -> tuple[str, Fields]:
    """Return the prompt and the other fields of the body.

    A body is JSON if its type says so or, with no or another type, if it looks like it: `curl -d` sends
    JSON as a form. Everything else that is text is the prompt, as the first service of this wire took it.

    Raises:
        InvalidRequest: neither; or an image.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media.startswith(("image/", "multipart/")) or body.startswith(_IMAGE_STARTS):
        reject("inputs", NOT_SERVED)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest("body", "is neither JSON nor text in UTF-8") from error
    if media.endswith("json") or (media != "text/plain" and text.lstrip()[:1] in {"{", "[", '"'}):
        return _read_json(text, longest_prompt)
    return _prompt(text, longest_prompt), Fields({})


def _read_json(text: str, longest_prompt: int) -> tuple[str, Fields]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("body", f"is not valid JSON: {_reason(error)}") from error
    if isinstance(value, str):
        return _prompt(value, longest_prompt), Fields({})
    if not isinstance(value, dict):
        reject("body", "has to be a JSON object with 'inputs', or a JSON string")
    fields = Fields(value)
    if isinstance(value.get("inputs"), str):
        _refuse_image(value["inputs"])
    prompt = fields.text("inputs", longest_prompt)
    if prompt is None:
        reject("inputs", "is missing: it holds the prompt")
    return prompt, fields


def _prompt(text: str, longest: int) -> str:
    _refuse_image(text)
    return checked_text(text, "inputs", longest)


def _refuse_image(text: str) -> None:
    """An image in base64, as image-to-image requests carry it."""
    if text.startswith(_BASE64_IMAGE_STARTS):
        reject("inputs", NOT_SERVED)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}"
    return "nested too deep, or a number too long"
