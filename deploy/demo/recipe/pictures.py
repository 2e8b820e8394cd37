"""Sets of drawn pictures with captions."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from deploy.demo.recipe.scenes import SHAPES, SIZE, caption, random_scene
from deploy.demo.recipe.styles import STYLES

EMPTY_SHARE: Final = 0.1
"""Share of empty captions, which classifier-free guidance (Ho & Salimans, 2022) needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Pictures as bytes (n, 3, SIZE, SIZE) and one caption each."""

    pixels: Tensor
    captions: list[str]


def draw(
    style: str,
    count: int,
    seed: int,
    *,
    shapes: tuple[str, ...] = SHAPES,
    trigger: str = "",
    empty: float = EMPTY_SHARE,
) -> Drawn:
    """Draws `count` random scenes in a style, always the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    captions = []
    for index in range(count):
        scene = random_scene(rng, shapes)
        pixels[index] = np.clip(STYLES[style](scene, rng) * 255 + 0.5, 0, 255).astype(np.uint8)
        # Some captions go without the trigger, so that the style shows without it as well.
        words = caption(scene, rng, trigger if rng.random() < 0.6 else "")
        captions.append("" if rng.random() < empty else words)
    return Drawn(pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), captions=captions)


def normalised(pixels: Tensor) -> Tensor:
    """Bytes to the -1..1 that the VAE works in."""
    return pixels.float() / 127.5 - 1.0
