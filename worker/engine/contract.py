"""What the worker needs of an engine. No torch here, so that tests can bring an engine of their own.

An engine owns one warm base. Its methods are called from one thread at a time, except `ingest` and
`raise_up`, which touch no weight: they may run beside a generation, and several of them at once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from PIL.Image import Image

from shared.jobs import GenerationParams
from shared.refs import AdapterRef, RepoId


class Interrupted(Exception):
    """Raised by a step callback to stop the generation at once; the engine stays usable."""


LONGEST_QUOTE = 120
LONGEST_FAULT = 500


def quoted(text: str) -> str:
    """Return a name from a stranger's file as messages show it: in quotes, in one line, not too long."""
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…")


class AdapterFault(Exception):
    """The weight file is broken or does not fit the base. The message is for people: what and where.

    Raised before any weight is written. Whatever a stranger's file puts into the message, it is one
    printable line of bounded length.
    """

    def __init__(self, message: str) -> None:
        text = "".join(
            letter if letter.isprintable() else repr(letter)[1:-1] for letter in message[:LONGEST_FAULT]
        )
        whole = len(message) <= LONGEST_FAULT and len(text) <= LONGEST_FAULT
        super().__init__(text if whole else f"{text[: LONGEST_FAULT - 1]}…")


class BrokenFile(AdapterFault):
    """It is not a whole weight file: as it came, or since it lies on this machine's disk."""


class BaseDamaged(Exception):
    """The base's weights are not what they were. The process has to end: no later image can be trusted."""


class BrokenImage(Exception):
    """The generation ended in NaN or infinity. The weights are as they were; drawing again gives the same."""


class Adapter(Protocol):
    """An ingested adapter, ready to be applied: what it takes, its file, what of that could not be used."""

    @property
    def nbytes(self) -> int:
        """Bytes of RAM."""
        ...

    @property
    def file_nbytes(self) -> int:
        """Bytes of the weight file."""
        ...

    @property
    def digest(self) -> Future[str]:
        """SHA-256 of the weight file, hexadecimal, as soon as it is known."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the file could not be used, each in a line for people."""
        ...


A = TypeVar("A", bound=Adapter)


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation(Generic[A]):
    """An adapter with the strength it is wanted at. `ref` names it in plans and logs."""

    ref: AdapterRef
    adapter: A


@dataclass(frozen=True, kw_only=True, slots=True)
class SwapReport:
    """What a swap did: weights rewritten, weights copied back to pristine."""

    written: int
    restored: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseInfo:
    """The warm base: what it is, and what it does when a request leaves a choice open.

    `adapters` says how they are applied: `merged` into the weights, or `unmerged` beside those that cannot be
    rewritten. `image_to_image`: whether it draws from a picture as well. `copy_of`: the base that it is a
    quantised copy of, as its card says. `denoiser_file`: the GGUF file of `repo` that is its denoiser, if all
    else is from elsewhere; `other_parts` says from where, as `organisation/name@commit`. `schedulers`: class
    names of those that it can be run with.
    """

    repo: RepoId
    revision: str
    pipeline_class: str
    device: str
    dtype: str
    default_width: int
    default_height: int
    default_steps: int
    default_guidance_scale: float
    default_scheduler: str
    size_multiple: int
    adapters: Literal["merged", "unmerged"] = "merged"
    image_to_image: bool = False
    copy_of: RepoId | None = None
    denoiser_file: str | None = None
    other_parts: str | None = None
    schedulers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """An image, and the choices that were really made. `strength` is None if no picture was started from."""

    image: Image
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    strength: float | None = None


StepCallback = Callable[[int, int], None]
"""Called after each denoising step with steps done and to do; may raise `Interrupted`."""


class Engine(Protocol[A]):
    """One warm base and the adapters that are active in its weights."""

    @property
    def info(self) -> BaseInfo:
        """The warm base."""
        ...

    def ingest(self, path: Path) -> A:
        """Read and validate a weight file and return it in the form that `activate` applies.

        Raises:
            AdapterFault: broken, hostile, or made for another base.
        """
        ...

    def raise_up(self, adapter: A) -> A | None:
        """Return the adapter with its bytes on the device, so that a swap need not move them.

        On a CPU that is the adapter itself. None: the device has no room to spare now.
        """
        ...

    def activate(self, wanted: Sequence[Activation[A]]) -> SwapReport:
        """Make exactly `wanted` active, from pristine weights; nothing when it is active already.

        A transaction: after an error in the course of it, the base is pristine and nothing is active.

        Raises:
            AdapterFault: an adapter does not fit,
            InvalidRequest: or its strength. Found before anything is written: what was active stays.
            BaseDamaged: the base could not be brought back.
        """
        ...

    def generate(
        self, params: GenerationParams, on_step: StepCallback, source: Image | None = None
    ) -> Generated:
        """Draw one image with what is active. Keeps nothing of the request afterwards.

        `source` is the picture that `params` speak of, in RGB, of the size to draw: that of `params`, where
        they say one.

        Raises:
            InvalidRequest: a parameter that this base cannot take, or an image too large for its device.
            Interrupted: the callback said so.
            BrokenImage: the image holds NaN or infinity.
            BaseDamaged: the weights cannot be trusted.
        """
        ...

    def verify(self) -> None:
        """Check the weights against their fingerprint, with nothing active.

        Raises:
            BaseDamaged: they are not what they were.
        """
        ...
