"""A picture that a job starts from: a stranger's bytes in, plain pixels of the size to draw out."""

import hashlib
from io import BytesIO

from PIL import Image, ImageOps
from PIL.Image import Resampling

from shared.config import Limits
from shared.errors import InvalidRequest, ResultGone
from shared.jobs import GenerationParams
from shared.results.store import SOURCE_GONE

FIELD = "inputs"
FORMATS = ("PNG", "JPEG", "WEBP")
"""Pillow knows dozens of others, in older code; none of them is tried."""

MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Of eight bits. What has more is cut off by a conversion, not scaled."""

JPEG_START = b"\xff\xd8"
SCAN = b"\xff\xda"
MOST_SCANS = 100
"""A JPEG may go over all its pixels once for a few bytes; those of cameras and editors do about ten times."""

BACKGROUND = "white"
"""Behind what is transparent."""


def read_picture(data: bytes, params: GenerationParams, multiple: int, limits: Limits) -> Image.Image:
    """Return the picture in RGB, upright, in the size to draw: that of the request, else its own.

    Its own size is cut to multiples of `multiple`, as diffusers does. Of an animation it is the first frame.

    Raises:
        InvalidRequest: it is no such picture, damaged, or too large.
        ResultGone: the bytes are not those of the request.
    """
    if hashlib.sha256(data).hexdigest() != params.source:
        raise ResultGone(SOURCE_GONE)
    try:
        return _sized(_decoded(data, limits), params, multiple, limits)
    except InvalidRequest:
        raise
    except Exception as error:  # whatever a decoder says of a stranger's bytes
        raise InvalidRequest(FIELD, "is no whole PNG, JPEG or WebP image: damaged, or cut off") from error


def _decoded(data: bytes, limits: Limits) -> Image.Image:
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    with image:
        # the header is read, nothing is decoded yet
        if image.width * image.height > limits.max_source_pixels:
            raise _too_many_pixels(limits)
        # scaling goes over the width first, with all rows: one that is long and narrow would take 100 GB
        if max(image.size) > limits.max_source_side:
            raise InvalidRequest(FIELD, f"has more than {limits.max_source_side} pixels a side")
        if image.mode not in MODES:
            raise InvalidRequest(FIELD, f"has pixels of the kind {image.mode}: send 8 bits per colour")
        # by its bytes: Pillow has another format for a JPEG that says it holds several
        if data.startswith(JPEG_START) and data.count(SCAN) > MOST_SCANS:
            raise InvalidRequest(FIELD, f"is drawn in more than {MOST_SCANS} passes: save it anew")
        image.load()
        return _opaque(ImageOps.exif_transpose(image))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = Image.new("RGBA", image.size, BACKGROUND)
    picture.alpha_composite(image.convert("RGBA"))
    return picture.convert("RGB")


def _sized(image: Image.Image, params: GenerationParams, multiple: int, limits: Limits) -> Image.Image:
    width = params.width or max(multiple, image.width - image.width % multiple)
    height = params.height or max(multiple, image.height - image.height % multiple)
    if max(width, height) > limits.max_side:
        raise InvalidRequest(
            FIELD,
            f"has {image.width} x {image.height} pixels, and at most {limits.max_side} a side are drawn:"
            " shrink it, or say parameters.target_size",
        )
    return image if image.size == (width, height) else image.resize((width, height), Resampling.LANCZOS)


def _too_many_pixels(limits: Limits) -> InvalidRequest:
    return InvalidRequest(FIELD, f"has more than {limits.max_source_pixels} pixels")
