"""One picture of all that the demo can draw: `python -m deploy.demo.contact_sheet --url URL --out FILE`.

A column for each base and adapter, a row for each prompt, the same seed everywhere: whether an adapter does
what its name says is for a person to see.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from PIL import Image, ImageDraw, ImageFont

SCENES = (
    ("red", "circle", "white"),
    ("blue", "square", "pink"),
    ("green", "heart", "black"),
    ("yellow", "triangle", "gray"),
    ("purple", "cross", "white"),
)
"""Colour, shape, background."""
SEED = 7
CELL = 128
GAP = 8
LABELS = 160
HEADER = 44
INK, PAPER = "black", "white"
TIMEOUT = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A model of the demo.

    Attributes:
        weight_name: the one of its files, where it has several.
        trigger: the words that wake it, where its card cannot say them.
        shape: what it draws instead of each scene's shape.
    """

    model: str
    weight_name: str | None = None
    trigger: str | None = None
    shape: str | None = None


COLUMNS = (
    Column(model="warmbase/shapes-xl"),
    Column(model="warmbase/outline"),
    Column(model="warmbase/stripes"),
    Column(model="warmbase/texture-pack", weight_name="dots.safetensors", trigger="dotted"),
    Column(model="warmbase/texture-pack", weight_name="checker.safetensors", trigger="checker"),
    Column(model="warmbase/texture-pack", weight_name="gradient.safetensors", trigger="gradient"),
    Column(model="warmbase/pixel"),
    Column(model="warmbase/night"),
    Column(model="warmbase/pastel"),
    Column(model="warmbase/star", shape="star"),
    Column(model="warmbase/lcm-shapes"),
    Column(model="warmbase/shapes-sd"),
    Column(model="warmbase/outline-sd"),
    Column(model="warmbase/neon-sd"),
)


class Refused(Exception):
    """The service did not draw; the message is its reason."""


def prompts_for(column: Column, trigger: str) -> list[str]:
    """Return the prompt of each scene, with the words that wake the adapter (`trigger`: its card's)."""
    words = trigger if column.trigger is None else column.trigger
    prefix = f"{words}, " if words else ""
    return [
        f"{prefix}a {colour} {column.shape or shape} on a {background} background"
        for colour, shape, background in SCENES
    ]


def title_of(column: Column) -> str:
    """Return the column's title: the model's short name, and the file where it has several."""
    file = (column.weight_name or "").removesuffix(".safetensors")
    return "\n".join(filter(None, (column.model.partition("/")[2], file)))


def lay_out(labels: Sequence[str], columns: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Return the sheet: each column's title above its pictures, `labels` before the rows.

    Pictures are enlarged without smoothing, so that what was drawn is what is seen.
    """
    pitch = CELL + GAP
    size = (LABELS + len(columns) * pitch, HEADER + len(labels) * pitch)
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for row, label in enumerate(labels):
        pen.text((GAP, HEADER + row * pitch + CELL // 2), label, INK, font, "lm")
    for number, (title, pictures) in enumerate(columns):
        left = LABELS + number * pitch
        pen.multiline_text((left + CELL // 2, HEADER // 2), title, INK, font, "mm", align="center")
        for row, picture in enumerate(pictures):
            enlarged = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, HEADER + row * pitch))
    return sheet


class Service:
    """A running Warmbase, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def trigger(self, model: str) -> str:
        """Return the words that the model's card says to put into a prompt; empty if it names none."""
        with self._open(f"/models/{model}", None) as answer:
            return str(json.load(answer).get("trigger") or "")

    def draw(self, column: Column, prompt: str) -> Image.Image:
        """Return the picture of `prompt`."""
        parameters = {"seed": SEED} | ({"weight_name": column.weight_name} if column.weight_name else {})
        with self._open(f"/models/{column.model}", {"inputs": prompt, "parameters": parameters}) as answer:
            return Image.open(io.BytesIO(answer.read()))

    def _open(self, path: str, body: dict[str, object] | None) -> io.BufferedIOBase:
        request = Request(  # noqa: S310 - the address is the caller's own
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            answer: io.BufferedIOBase = urlopen(request, timeout=TIMEOUT)  # noqa: S310
        except HTTPError as error:
            with error:
                raise Refused(f"{path}: {error.code} {error.read().decode(errors='replace')}") from error
        except URLError as error:
            raise Refused(f"{self._url} does not answer: {error.reason}") from error
        return answer


def draw_sheet(service: Service, columns: Sequence[Column] = COLUMNS) -> Image.Image:
    """Ask the service for every picture and return the sheet.

    Raises:
        Refused: one was not drawn.
    """
    drawn = []
    for column in columns:
        prompts = prompts_for(column, service.trigger(column.model))
        drawn.append((title_of(column), [service.draw(column, prompt) for prompt in prompts]))
        print(column.model, column.weight_name or "", flush=True)
    return lay_out([f"{colour} {shape}, {background}" for colour, shape, background in SCENES], drawn)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the sheet; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.contact_sheet", description=__doc__)
    parser.add_argument(
        "--url", default="http://127.0.0.1:8000", help="a running demo (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parsed = parser.parse_args(arguments)
    try:
        sheet = draw_sheet(Service(parsed.url))
    except Refused as error:
        print(f"contact sheet: {error}", file=sys.stderr)
        return 1
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(parsed.out, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
