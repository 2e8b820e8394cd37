"""Renders pictures and sheets of them, for the cards and for judging by eye."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from deploy.demo.recipe.parts import Pipeline
from deploy.demo.recipe.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZE

STEPS: Final = 20
GUIDANCE: Final = 3.0
GAP: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One row of a sheet: prompts and how to render them."""

    prompts: tuple[str, ...]
    steps: int = STEPS
    guidance: float = GUIDANCE
    seed: int = 7


def judged_prompts(count: int, offset: int = 0) -> tuple[str, ...]:
    """Prompts that go through shapes, colours and backgrounds in unequal strides."""
    shapes, colours, papers = list(SHAPES), list(COLOURS), list(BACKGROUNDS)
    picked = range(offset, offset + count)
    return tuple(
        f"a {colours[(i + i // 6) % 6]} {shapes[i % 6]} on a {papers[(i + i // 4) % 4]} background".replace(
            "a orange", "an orange"
        )
        for i in picked
    )


@torch.no_grad()
def render(pipeline: Pipeline, shot: Shot) -> list[Image.Image]:
    """One picture per prompt; every prompt has its own seed, the same in every row."""
    generators = [torch.Generator().manual_seed(shot.seed + i) for i in range(len(shot.prompts))]
    output = pipeline(
        list(shot.prompts),
        num_inference_steps=shot.steps,
        guidance_scale=shot.guidance,
        generator=generators,
    )
    pictures: list[Image.Image] = output.images
    return pictures


def sheet(rows: list[list[Image.Image]], zoom: int = 1) -> Image.Image:
    """Lays rows of pictures out on white."""
    step = SIZE * zoom + GAP
    width = max(len(row) for row in rows) * step + GAP
    page = Image.new("RGB", (width, len(rows) * step + GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            large = picture.resize((SIZE * zoom, SIZE * zoom), Image.Resampling.BICUBIC)
            page.paste(large, (GAP + x * step, GAP + y * step))
    return page


def save_picture(page: Image.Image, path: Path) -> None:
    """Writes a small WebP."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=90, method=6)
