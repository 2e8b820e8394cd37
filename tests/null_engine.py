"""An engine without torch: its image says what it was asked for, and it misbehaves on request."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from shared.errors import InvalidRequest
from shared.jobs import GenerationParams
from shared.refs import RepoId
from tests.builders import known
from worker.engine.contract import (
    Activation,
    AdapterFault,
    BaseDamaged,
    BaseInfo,
    BrokenImage,
    Generated,
    StepCallback,
    SwapReport,
)

BASE_REVISION = "89abcdef0123456789abcdef0123456789abcdef"

# Prompts that make the engine misbehave; all others are drawn.
CRASH = "crash the process"
CRASH_LATE = "crash the process after the last step"
HANG = "hang for ever"
RAISE = "raise something unforeseen"
DAMAGE = "damage the base and raise"
REFUSE = "refuse the request"
BREAK = "come out as infinity"

BROKEN_FILE = b"broken"
"""A weight file that begins so is refused."""

PARTIAL_FILE = b"partial"
"""Of a weight file that begins so, a part cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NullAdapter:
    """A weight file's size and digest."""

    nbytes: int
    digest: Future[str]
    warnings: tuple[str, ...] = ()
    raised: bool = False

    @property
    def file_nbytes(self) -> int:
        return self.nbytes


class NullEngine:
    """Implements `worker.engine.contract.Engine`.

    Args:
        base: what it claims to be.
        step_seconds: how long each denoising step sleeps.
        steps: how many steps it takes when the request leaves that open.
        device: what it claims to compute on.
        draws: a file that gets a line for each image it begins.
    """

    def __init__(
        self,
        base: RepoId,
        *,
        step_seconds: float = 0.0,
        steps: int = 4,
        device: str = "cpu",
        draws: Path | None = None,
    ) -> None:
        self._base = base
        self._device = device
        self._step_seconds = step_seconds
        self._steps = steps
        self._draws = draws
        self._active: tuple[Activation[NullAdapter], ...] = ()
        self._damaged = False
        self.ingested: list[Path] = []
        self.activated: list[tuple[NullAdapter, ...]] = []
        self.generations = 0
        self.verifications = 0

    @property
    def info(self) -> BaseInfo:
        return BaseInfo(
            repo=self._base,
            revision=BASE_REVISION,
            pipeline_class="StableDiffusionXLPipeline",
            device=self._device,
            dtype="float32",
            default_width=64,
            default_height=64,
            default_steps=self._steps,
            default_guidance_scale=5.0,
            default_scheduler="EulerDiscreteScheduler",
            size_multiple=8,
            image_to_image=True,
        )

    def ingest(self, path: Path) -> NullAdapter:
        data = path.read_bytes()
        self.ingested.append(path)
        if data.startswith(BROKEN_FILE):
            raise AdapterFault("not a whole safetensors file")
        warnings = ("a part of it cannot be used",) if data.startswith(PARTIAL_FILE) else ()
        return NullAdapter(
            nbytes=len(data), digest=known(hashlib.sha256(data).hexdigest()), warnings=warnings
        )

    def raise_up(self, adapter: NullAdapter) -> NullAdapter | None:
        return adapter if self._device == "cpu" else replace(adapter, raised=True)

    def activate(self, wanted: Sequence[Activation[NullAdapter]]) -> SwapReport:
        report = SwapReport(written=len(wanted), restored=len(self._active))
        self._active = tuple(wanted)
        self.activated.append(tuple(each.adapter for each in wanted))
        return report

    def generate(
        self, params: GenerationParams, on_step: StepCallback, source: Image.Image | None = None
    ) -> Generated:
        self.generations += 1
        self._note(params)
        self._misbehave(params.prompt)
        steps = params.steps or self._steps
        for done in range(1, steps + 1):
            time.sleep(self._step_seconds)
            on_step(done, steps)
        if params.prompt == CRASH_LATE:
            os.kill(os.getpid(), signal.SIGKILL)
        return Generated(
            image=draw(self._active, params),
            width=source.width if source else params.width or 64,
            height=source.height if source else params.height or 64,
            strength=None if source is None else params.strength or 0.5,
            steps=steps,
            guidance_scale=params.guidance_scale or 5.0,
            scheduler=params.scheduler or "EulerDiscreteScheduler",
        )

    def verify(self) -> None:
        self.verifications += 1
        if self._active:
            raise AssertionError("verified with adapters active")
        if self._damaged:
            raise BaseDamaged("the weights do not match their fingerprint")

    def _note(self, params: GenerationParams) -> None:
        if self._draws is not None:
            line = {"t": time.time(), "pid": os.getpid(), "prompt": params.prompt, "seed": params.seed}
            with self._draws.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _misbehave(self, prompt: str) -> None:
        match prompt:
            case str(text) if text == CRASH:
                os.kill(os.getpid(), signal.SIGKILL)
            case str(text) if text == HANG:
                time.sleep(3600)
            case str(text) if text == REFUSE:
                raise InvalidRequest("parameters.width", "this base takes multiples of 8")
            case str(text) if text == BREAK:
                raise BrokenImage("the image came out as NaN or infinity")
            case str(text) if text in {RAISE, DAMAGE}:
                self._damaged = text == DAMAGE
                raise RuntimeError("secret/path/to/weights is on fire")


def draw(active: Sequence[Activation[NullAdapter]], params: GenerationParams) -> Image.Image:
    """Return an image whose pixels spell the request."""
    spelled = json.dumps(
        {
            "adapters": [[each.adapter.digest.result(), each.ref.scale] for each in active],
            "prompt": params.prompt,
            "seed": params.seed,
            **({} if params.source is None else {"source": params.source, "strength": params.strength}),
        }
    ).encode()
    pixels = len(spelled).to_bytes(4, "big") + spelled
    side = 1 + int((len(pixels) / 3) ** 0.5)
    return Image.frombytes("RGB", (side, side), pixels.ljust(3 * side * side, b"\0"))


def read(data: bytes) -> Any:
    """Return what a PNG of this engine spells: its `adapters` (digest and scale), `prompt` and `seed`."""
    pixels = Image.open(BytesIO(data)).tobytes()
    return json.loads(pixels[4 : 4 + int.from_bytes(pixels[:4], "big")])
