"""Draws scenes: a signed distance to the shape's edge, turned into colours by a style."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from deploy.demo.recipe.scenes import BACKGROUNDS, COLOURS, SIZE, Scene

Floats = npt.NDArray[np.float32]
Style = Callable[[Scene, np.random.Generator], Floats]
"""Draws a scene as an array (SIZE, SIZE, 3) of values 0..1."""

WHITE: Final = np.ones(3, np.float32)


def _polygon(shape: str) -> Floats:
    """Corners of a shape of radius about 1, y downwards, in drawing order."""
    if shape == "star":
        turn = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, 1.08, 0.44)
        points = np.stack([np.cos(turn) * reach, np.sin(turn) * reach], 1)
    elif shape == "heart":
        # The classic parametric heart, scaled from about 17 units to 1.
        t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        points = np.stack([x, -y - 2], 1) / 16.0
    else:
        corners = {
            "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
            "diamond": [(0, -1.1), (0.72, 0), (0, 1.1), (-0.72, 0)],
            "triangle": [(0, -0.95), (1.0, 0.8), (-1.0, 0.8)],
            "cross": [
                (-0.32, -1), (0.32, -1), (0.32, -0.32), (1, -0.32), (1, 0.32), (0.32, 0.32),
                (0.32, 1), (-0.32, 1), (-0.32, 0.32), (-1, 0.32), (-1, -0.32), (-0.32, -0.32),
            ],
        }  # fmt: skip
        points = np.array(corners[shape])
    return points.astype(np.float32)


def grid(cells: int = SIZE) -> tuple[Floats, Floats]:
    """Pixel centres x and y of a picture of `cells` by `cells`, in units of full-size pixels."""
    centres = (np.arange(cells, dtype=np.float32) + 0.5) * (SIZE / cells)
    x, y = np.meshgrid(centres, centres)
    return x, y


def distance(scene: Scene, cells: int = SIZE) -> Floats:
    """Signed distance to the edge in pixels, negative inside.

    The polygon formula is Inigo Quilez' `sdPolygon` (2D distance functions).
    """
    x, y = grid(cells)
    x, y = x - scene.x, y - scene.y
    if scene.shape == "circle":
        return np.asarray(np.hypot(x, y) - scene.radius, np.float32)
    cos, sin = np.cos(scene.angle), np.sin(scene.angle)
    corners = _polygon(scene.shape) * scene.radius
    corners = corners @ np.array([[cos, sin], [-sin, cos]], np.float32)
    nearest = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, 1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        crosses = (ay > y) != (by > y)
        if ey != 0:
            inside ^= crosses & (wx < ex * wy / ey)
    edge = np.sqrt(nearest)
    return np.where(inside, -edge, edge).astype(np.float32)


def cover(signed: Floats) -> Floats:
    """Anti-aliased coverage 0..1 of a signed distance, with a last axis for colours."""
    amount: Floats = np.clip(0.5 - signed, 0, 1)[..., None].astype(np.float32)
    return amount


def mix(under: Floats, over: Floats, amount: Floats | float) -> Floats:
    """Lays `over` on `under` where `amount` is 1."""
    return (under * (1 - amount) + over * amount).astype(np.float32)


def colours_of(scene: Scene) -> tuple[Floats, Floats]:
    """The shape's and the background's colour as arrays of three values."""
    ink = np.array(COLOURS[scene.colour], np.float32)
    paper = np.array(BACKGROUNDS[scene.background], np.float32)
    return ink, paper


def canvas(colour: Floats, cells: int = SIZE) -> Floats:
    """A picture of one colour."""
    return np.broadcast_to(colour, (cells, cells, 3)).astype(np.float32)


def flat(scene: Scene, _rng: np.random.Generator) -> Floats:
    """The bases' own style: one colour on another."""
    ink, paper = colours_of(scene)
    return mix(canvas(paper), ink, cover(distance(scene)))
