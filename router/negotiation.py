"""Which form of answer the client accepts (RFC 9110, section 12.5.1)."""

from dataclasses import dataclass

from shared.errors import InvalidRequest
from shared.jobs import ImageFormat

JSON_TYPE = "application/json"
_OFFERS = (*(form.media_type for form in ImageFormat), JSON_TYPE)
"""What can be answered, preferred first."""


class NotAcceptable(InvalidRequest):
    """The client accepts no form of answer that exists here."""

    def __init__(self) -> None:
        super().__init__("Accept", f"none of these is accepted: {', '.join(_OFFERS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerForm:
    """The image's format, and whether it is wrapped into JSON."""

    image_format: ImageFormat
    as_json: bool = False


def choose_answer_form(accept: str) -> AnswerForm:
    """Return the form with the highest quality in an `Accept` header, PNG if nothing speaks against it.

    Raises:
        NotAcceptable: every offer has quality 0.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return AnswerForm(image_format=ImageFormat.PNG)
    qualities = {offer: _quality(offer, ranges) for offer in _OFFERS}
    best = max(_OFFERS, key=lambda offer: qualities[offer])  # the first of equals
    if qualities[best] <= 0:
        raise NotAcceptable
    if best == JSON_TYPE:
        return AnswerForm(image_format=ImageFormat.PNG, as_json=True)
    return AnswerForm(image_format=ImageFormat(best.removeprefix("image/")))


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return ("image/jpeg" if media == "image/jpg" else media), quality


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The most specific range that covers the offer decides."""
    family = offer.partition("/")[0] + "/*"
    for wanted in (offer, family, "*/*"):
        matching = [quality for media, quality in ranges if media == wanted]
        if matching:
            return max(matching)
    return 0.0
