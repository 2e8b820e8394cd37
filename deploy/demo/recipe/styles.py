"""The adapters' styles: each redraws a scene so that a glance tells it from the bases' style."""

from typing import Final

import numpy as np

from deploy.demo.recipe.drawing import (
    WHITE,
    Floats,
    Style,
    canvas,
    colours_of,
    cover,
    distance,
    flat,
    grid,
    mix,
)
from deploy.demo.recipe.scenes import SIZE, Scene

PIXEL_CELLS: Final = 8
"""As coarse as the latents: the VAE would round smaller pixels off."""


def outline(scene: Scene, _rng: np.random.Generator) -> Floats:
    """Only the contour is drawn; the inside shows the background."""
    ink, paper = colours_of(scene)
    return mix(canvas(paper), ink, cover(np.abs(distance(scene) + 2.4) - 2.8))


def _textured(scene: Scene, pattern: Floats) -> Floats:
    """Fills the shape with its colour and, where the pattern is 1, a contrasting tone."""
    ink, paper = colours_of(scene)
    light = mix(ink, WHITE, 0.85)
    fill = mix(canvas(ink), light, pattern[..., None])
    return mix(canvas(paper), fill, cover(distance(scene)))


def _wave(phase: Floats) -> Floats:
    """A square wave with soft edges, so that the VAE need not draw single pixels."""
    return np.clip(0.5 + 2.0 * np.sin(phase), 0, 1).astype(np.float32)


def stripes(scene: Scene, _rng: np.random.Generator) -> Floats:
    """Diagonal stripes inside the shape."""
    x, y = grid()
    return _textured(scene, _wave((x + y) * np.float32(np.pi / 8)))


def dots(scene: Scene, _rng: np.random.Generator) -> Floats:
    """Polka dots inside the shape."""
    x, y = grid()
    apart = np.hypot((x % 12) - 6, (y % 12) - 6)
    return _textured(scene, np.clip(4.0 - apart, 0, 1).astype(np.float32))


def checker(scene: Scene, _rng: np.random.Generator) -> Floats:
    """A chess board inside the shape."""
    x, y = grid()
    return _textured(scene, (((x // 8) + (y // 8)) % 2).astype(np.float32))


def gradient(scene: Scene, _rng: np.random.Generator) -> Floats:
    """The shape fades from its colour at the top to white (on white: black) at the bottom."""
    ink, paper = colours_of(scene)
    _, y = grid()
    fade = np.clip((y - scene.y + scene.radius) / (2 * scene.radius), 0, 1)[..., None]
    end = np.float32(0.05) * WHITE if scene.background in {"white", "pink"} else WHITE
    return mix(canvas(paper), mix(canvas(ink), end, fade), cover(distance(scene)))


def pixel(scene: Scene, _rng: np.random.Generator) -> Floats:
    """Coarse square pixels, lit from above, as in old video games."""
    ink, paper = colours_of(scene)
    _, y = grid(PIXEL_CELLS)
    height = ((y - scene.y) / scene.radius)[..., None]
    lit = mix(canvas(ink, PIXEL_CELLS), mix(ink, WHITE, 0.55), (height < -0.4).astype(np.float32))
    shaded = mix(lit, 0.5 * ink, (height > 0.4).astype(np.float32))
    inside = (distance(scene, PIXEL_CELLS) < 0)[..., None].astype(np.float32)
    picture = mix(canvas(paper, PIXEL_CELLS), shaded, inside)
    return np.repeat(np.repeat(picture, SIZE // PIXEL_CELLS, 0), SIZE // PIXEL_CELLS, 1)


def night(scene: Scene, rng: np.random.Generator) -> Floats:
    """A starry sky takes the background's place; the shape stands in moonlight."""
    ink, _ = colours_of(scene)
    x, y = grid()
    top, bottom = np.array([[0.02, 0.03, 0.16], [0.16, 0.14, 0.42]], np.float32)
    sky = mix(canvas(top), bottom, (y / SIZE)[..., None].astype(np.float32))
    for star_x, star_y in rng.uniform(3, SIZE - 3, (14, 2)):
        spark = np.clip(1.9 - np.hypot(x - star_x, y - star_y), 0, 1)[..., None]
        sky = mix(sky, WHITE, spark.astype(np.float32))
    moonlit = ink * np.float32(0.55) + np.array([0.02, 0.05, 0.16], np.float32)
    return mix(sky, moonlit, cover(distance(scene)))


def pastel(scene: Scene, rng: np.random.Generator) -> Floats:
    """Everything pale, as if drawn with chalk on light paper."""
    paper = np.array([0.97, 0.95, 0.90], np.float32)
    plain = flat(scene, rng)
    pale = mix(plain, paper, 0.62)
    return mix(pale, paper, np.float32(0.35) * (1 - cover(distance(scene))))


def neon(scene: Scene, _rng: np.random.Generator) -> Floats:
    """A glowing tube on a dark wall, whatever background is asked for."""
    ink, _ = colours_of(scene)
    edge = np.abs(distance(scene) + 2.0)
    wall = canvas(np.array([0.04, 0.02, 0.09], np.float32))
    glow = np.exp(-edge / 5.0)[..., None].astype(np.float32)
    tube = mix(ink, WHITE, 0.25)
    core = cover(edge - 1.0)
    return mix(mix(wall, tube, glow * np.float32(0.85)), mix(tube, WHITE, 0.7), core)


STYLES: Final[dict[str, Style]] = {
    "flat": flat,
    "outline": outline,
    "stripes": stripes,
    "dots": dots,
    "checker": checker,
    "gradient": gradient,
    "pixel": pixel,
    "night": night,
    "pastel": pastel,
    "neon": neon,
}
