from io import BytesIO

import pytest
from PIL import Image

from shared.jobs import ImageFormat
from tests.builders import COMMIT, a_job, an_adapter, some_params
from worker.images import encode, note_of

PICTURE = Image.radial_gradient("L").convert("RGB")
NOTE = {"base": "warmbase/shapes-xl@abc", "seed": "7"}


@pytest.mark.parametrize("image_format", ImageFormat)
def test_the_bytes_are_of_the_format_and_show_the_picture(image_format: ImageFormat) -> None:
    with Image.open(BytesIO(encode(PICTURE, image_format, NOTE))) as decoded:
        assert decoded.format == image_format.value.upper()
        assert decoded.size == PICTURE.size
        middle = decoded.convert("RGB").getpixel((128, 128))
    assert middle == pytest.approx(PICTURE.getpixel((128, 128)), abs=8)


def test_png_keeps_every_pixel_and_the_note_as_text() -> None:
    with Image.open(BytesIO(encode(PICTURE, ImageFormat.PNG, NOTE))) as decoded:
        assert decoded.tobytes() == PICTURE.tobytes()
        assert decoded.text == {"warmbase:base": "warmbase/shapes-xl@abc", "warmbase:seed": "7"}


def test_jpeg_keeps_the_note_as_comment() -> None:
    with Image.open(BytesIO(encode(PICTURE, ImageFormat.JPEG, NOTE))) as decoded:
        assert decoded.info["comment"] == b'{"base":"warmbase/shapes-xl@abc","seed":"7"}'


@pytest.mark.parametrize("image_format", ImageFormat)
def test_an_image_with_transparency_can_have_any_format(image_format: ImageFormat) -> None:
    assert encode(PICTURE.convert("RGBA"), image_format, NOTE)


def test_the_note_says_what_made_the_image_and_not_what_was_asked() -> None:
    job = a_job(
        adapters=(an_adapter(scale=0.75),), params=some_params(prompt="a surprise for Alice", seed=11)
    )
    note = note_of(job, "fedcba")

    assert note == {
        "base": "warmbase/shapes-xl@fedcba",
        "adapters": f"someone/crayon@{COMMIT}/pytorch_lora_weights.safetensors:0.75",
        "seed": "11",
    }
