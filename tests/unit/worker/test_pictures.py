"""Pictures of strangers: what is taken from them, and what is refused before it costs anything."""

import hashlib
import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from PIL import Image

from shared.config import Limits
from shared.errors import InvalidRequest, ResultGone
from tests.builders import some_params
from worker.pictures import read_picture

LIMITS = Limits()


def saved(image, format_="PNG", **options):
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def read(data, multiple=8, limits=LIMITS, **changes):
    params = some_params(source=hashlib.sha256(data).hexdigest(), **changes)
    return read_picture(data, params, multiple, limits)


def refusal(data, **options):
    with pytest.raises(InvalidRequest) as caught:
        read(data, **options)
    assert caught.value.field == "inputs"
    return caught.value.message


def red(width=64, height=48, mode="RGB"):
    return Image.new(mode, (width, height), "red")


def png_of(width, height, data=b"\0", depth=8, kind=2):
    """A PNG that says it has this size."""

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_it_is_rgb_and_has_its_own_size(format_):
    image = read(saved(red(), format_))

    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert image.getpixel((30, 20))[0] > 200


@pytest.mark.parametrize(
    ("size", "multiple", "drawn"),
    [((70, 50), 8, (64, 48)), ((64, 48), 16, (64, 48)), ((3, 50), 16, (16, 48)), ((1, 1), 8, (8, 8))],
)
def test_its_size_is_cut_to_what_the_base_can_draw(size, multiple, drawn):
    assert read(saved(red(*size)), multiple).size == drawn


def test_a_size_that_is_asked_for_is_taken():
    assert read(saved(red()), width=128, height=32).size == (128, 32)
    assert read(saved(red()), width=128).size == (128, 48)


def test_it_is_turned_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(saved(red(), "JPEG", exif=exif)).size == (48, 64)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0)).convert(mode)
    options = {"transparency": image.getpixel((0, 0))} if mode == "P" else {}
    assert read(saved(image, **options)).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK"])
def test_other_modes_become_rgb(mode):
    assert read(saved(red(mode=mode), "JPEG" if mode == "CMYK" else "PNG")).mode == "RGB"


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_of_an_animation_it_is_the_first_frame(format_):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    image = read(saved(frames[0], format_, save_all=True, append_images=frames[1:], duration=100))
    red_part, _, blue_part = image.getpixel((8, 8))
    assert red_part > 2 * blue_part


@pytest.mark.parametrize("format_", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA"])
def test_no_other_format_is_opened(format_):
    assert "no whole PNG, JPEG or WebP" in refusal(saved(red(), format_))


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused(format_, share):
    data = saved(Image.effect_noise((64, 64), 50).convert("RGB"), format_)
    assert "cut off" in refusal(data[: int(len(data) * share)])


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_is_damaged_is_refused_or_drawn_but_never_an_error_of_ours(format_):
    data = saved(Image.effect_noise((64, 64), 50).convert("RGB"), format_)
    for place in range(0, len(data), max(1, len(data) // 200)):
        damaged = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
        with suppress(InvalidRequest):
            assert read(damaged).mode == "RGB"


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 9_999), (4097, 4097), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header_and_takes_no_memory(size):
    data = png_of(*size, data=bytes(1 << 20))
    tracemalloc.start()
    assert "pixels" in refusal(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("size", [(1, 4096 * 4096), (16_385, 8), (8, 16_385)])
def test_a_picture_that_is_long_and_narrow_is_refused_before_it_is_scaled(size):
    data = saved(Image.new("1", size), "PNG")
    tracemalloc.start()
    assert "16384 pixels a side" in refusal(data, width=2048, height=2048)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("format_", ["JPEG", "MPO"])
def test_a_jpeg_of_very_many_passes_is_refused(format_):
    several = {"save_all": True, "append_images": [red()]} if format_ == "MPO" else {}
    data = saved(red(), format_, progressive=True, **several)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format_
    assert read(data).size == (64, 48)
    last = data.rindex(b"\xff\xda")
    assert "passes" in refusal(data[:last] + data[last:-2] * 200 + data[-2:])


def test_text_that_unpacks_to_much_is_refused():
    chunk = b"zTXtk\0\0" + zlib.compress(bytes(80 << 20))
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = png_of(8, 8, bytes(8 * 25))
    refusal(data[:33] + chunk + data[33:])


def test_sixteen_bits_are_refused_rather_than_cut_off():
    assert "8 bits per colour" in refusal(saved(Image.new("I;16", (16, 16), 40_000)))


@pytest.mark.parametrize("size", [(2056, 8), (8, 2056)])
def test_a_side_that_is_longer_than_any_is_drawn_needs_a_size_to_draw(size):
    data = saved(red(*size))
    assert "at most 2048 a side are drawn" in refusal(data)
    assert read(data, width=64, height=64).size == (64, 64)


def test_other_bytes_than_those_of_the_request_are_not_used():
    with pytest.raises(ResultGone, match="send the request again"):
        read_picture(saved(red()), some_params(source="0" * 64), 8, LIMITS)
