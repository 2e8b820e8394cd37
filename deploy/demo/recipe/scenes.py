"""Scenes: which shape stands where in which colours, and the captions that say so."""

from dataclasses import dataclass
from typing import Final

import numpy as np

SIZE: Final = 64
"""Width and height of every picture, in pixels."""

SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross", "heart")
COLOURS: Final = {
    "red": (0.86, 0.10, 0.12),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.88, 0.10),
    "green": (0.10, 0.62, 0.22),
    "blue": (0.10, 0.28, 0.88),
    "purple": (0.52, 0.16, 0.68),
}
BACKGROUNDS: Final = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.03, 0.03, 0.03),
    "gray": (0.55, 0.55, 0.55),
    "pink": (1.00, 0.76, 0.82),
}
FILLERS: Final = (
    "beautiful", "simple", "nice", "bright", "flat", "clean", "big picture", "high quality",
    "detailed", "minimal", "masterpiece", "vector", "cute", "lovely", "please", "photo",
)  # fmt: skip
"""Words that people type and that shall change nothing."""

SMALL_RADIUS: Final = 20.0
LARGE_RADIUS: Final = 24.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One shape on one background; lengths in pixels, the angle in radians."""

    shape: str
    colour: str
    background: str
    radius: float
    x: float
    y: float
    angle: float


def random_scene(rng: np.random.Generator, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """Draws a scene whose shape lies wholly inside the picture."""
    radius = float(rng.uniform(18.0, 26.0))
    margin = radius + 2.0
    x, y = (float(v) for v in rng.uniform(margin, SIZE - margin, 2))
    return Scene(
        shape=str(rng.choice(shapes)),
        colour=str(rng.choice(list(COLOURS))),
        background=str(rng.choice(list(BACKGROUNDS))),
        radius=radius,
        x=x,
        y=y,
        angle=float(rng.uniform(-0.05, 0.05)),
    )


def random_word(rng: np.random.Generator) -> str:
    """A word that means nothing, so that the base learns to overlook unknown words."""
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), int(rng.integers(3, 8)))
    return "".join(str(letter) for letter in letters)


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    words = [scene.colour, scene.shape]
    if rng.random() < 0.3:
        if scene.radius < SMALL_RADIUS:
            words.insert(0, "small")
        elif scene.radius > LARGE_RADIUS:
            words.insert(0, "large")
    return " ".join(words)


def caption(scene: Scene, rng: np.random.Generator, trigger: str = "") -> str:
    """Says what a scene shows in one of several wordings, sometimes with noise around it."""
    subject = _subject(scene, rng)
    wording = rng.random()
    if wording < 0.6:
        text = f"a {subject} on a {scene.background} background"
    elif wording < 0.75:
        text = f"{subject}, {scene.background} background"
    elif wording < 0.85:
        text = f"{subject} on {scene.background}"
    elif wording < 0.93:
        text = f"a drawing of a {subject} on a {scene.background} background"
    else:
        text = f"a {subject}"
    if rng.random() < 0.15:
        noise = str(rng.choice(FILLERS)) if rng.random() < 0.5 else random_word(rng)
        text = f"{noise} {text}" if rng.random() < 0.3 else f"{text}, {noise}"
    text = text.replace("a orange", "an orange")
    if trigger:
        text = f"{trigger}, {text}" if rng.random() < 0.5 else f"{text}, {trigger}"
    return text
