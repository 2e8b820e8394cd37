"""An image as the bytes a client asked for, with a note of what made it."""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import assert_never

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from shared.jobs import ImageFormat, Job

QUALITY = 92
"""Of the formats that lose something. Pillow's scale ends in steps that cost bytes and show nothing."""


def note_of(job: Job, base_revision: str) -> dict[str, str]:
    """Return what the image was made with. Not the prompt: who shares an image may not mean to share that."""
    return {
        "base": f"{job.base}@{base_revision}",
        "adapters": ", ".join(f"{a.repo}@{a.revision}/{a.weight_name}:{a.scale:g}" for a in job.adapters),
        "seed": str(job.params.seed),
    }


def encode(image: Image, image_format: ImageFormat, note: Mapping[str, str]) -> bytes:
    """Return the image's bytes: PNG with `note` as text chunks, JPEG with it as comment, WebP without."""
    buffer = BytesIO()
    match image_format:
        case ImageFormat.PNG:
            chunks = PngInfo()
            for key, value in note.items():
                chunks.add_text(f"warmbase:{key}", value)
            # A tenth larger than the default, and several times as fast.
            image.save(buffer, "PNG", pnginfo=chunks, compress_level=1)
        case ImageFormat.JPEG:
            comment = json.dumps(note, separators=(",", ":"))
            image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, comment=comment)
        case ImageFormat.WEBP:
            image.save(buffer, "WEBP", quality=QUALITY)
        case _:
            assert_never(image_format)
    return buffer.getvalue()
