"""One picture of all that the demo can draw: `python -m deploy.demo.contact_sheet --url URL --out FILE`.

A row for each base and adapter, a column for each prompt, the same seed everywhere: whether an adapter does
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
CELL = 192
GAP = 8
LABELS = 250
HEADER = 34
INK, PAPER = "black", "white"
TIMEOUT = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
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


ROWS = (
    Row(model="warmbase/shapes-xl"),
    Row(model="warmbase/outline"),
    Row(model="warmbase/stripes"),
    Row(model="warmbase/texture-pack", weight_name="dots.safetensors", trigger="dotted"),
    Row(model="warmbase/texture-pack", weight_name="checker.safetensors", trigger="checker"),
    Row(model="warmbase/texture-pack", weight_name="gradient.safetensors", trigger="gradient"),
    Row(model="warmbase/pixel"),
    Row(model="warmbase/night"),
    Row(model="warmbase/pastel"),
    Row(model="warmbase/star", shape="star"),
    Row(model="warmbase/lcm-shapes"),
    Row(model="warmbase/shapes-sd"),
    Row(model="warmbase/outline-sd"),
    Row(model="warmbase/neon-sd"),
)


class Refused(Exception):
    """The service did not draw; the message is its reason."""


def prompts_for(row: Row, trigger: str) -> list[str]:
    """Return the prompt of each scene, with the words that wake the row's adapter (`trigger`: its card's)."""
    words = trigger if row.trigger is None else row.trigger
    prefix = f"{words}, " if words else ""
    return [
        f"{prefix}a {colour} {row.shape or shape} on a {background} background"
        for colour, shape, background in SCENES
    ]


def lay_out(titles: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Return the sheet: `titles` above the columns, each row's label before its pictures.

    Pictures are enlarged without smoothing, so that what was drawn is what is seen.
    """
    width = LABELS + len(titles) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for column, title in enumerate(titles):
        middle = LABELS + column * (CELL + GAP) + CELL // 2
        pen.text((middle, HEADER // 2), title, INK, font, "mm")
    for number, (label, pictures) in enumerate(rows):
        top = HEADER + number * (CELL + GAP)
        pen.multiline_text((GAP, top + CELL // 2), label, INK, font, "lm")
        for column, picture in enumerate(pictures):
            enlarged = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (LABELS + column * (CELL + GAP), top))
    return sheet


class Service:
    """A running Warmbase, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def trigger(self, model: str) -> str:
        """Return the words that the model's card says to put into a prompt; empty if it names none."""
        with self._open(f"/models/{model}", None) as answer:
            return str(json.load(answer).get("trigger") or "")

    def draw(self, row: Row, prompt: str) -> Image.Image:
        """Return the picture of `prompt`."""
        parameters = {"seed": SEED} | ({"weight_name": row.weight_name} if row.weight_name else {})
        with self._open(f"/models/{row.model}", {"inputs": prompt, "parameters": parameters}) as answer:
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


def draw_sheet(service: Service, rows: Sequence[Row] = ROWS) -> Image.Image:
    """Ask the service for every picture and return the sheet.

    Raises:
        Refused: one was not drawn.
    """
    drawn = []
    for row in rows:
        prompts = prompts_for(row, service.trigger(row.model))
        pictures = [service.draw(row, prompt) for prompt in prompts]
        drawn.append(("\n".join(filter(None, (row.model, row.weight_name))), pictures))
        print(row.model, row.weight_name or "", flush=True)
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
