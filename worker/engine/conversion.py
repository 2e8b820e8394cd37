"""diffusers' converters on a stranger's file: what they give, and a fault for what they drop.

A converter (`lora_state_dict` of a pipeline's class) knows the formats of its family. It renames tensors,
splits fused ones, folds alphas in, and leaves out what it does not know: with a line in the log, or without.
So each tensor carries the keys it was made from. What no result was made from was dropped. The converters
for UNets only rename, and there a tensor is found again as itself: carrying keys takes as long as reading.

A converter may also look at a tensor's numbers, and rename by what it sees. Whoever asks is told.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from worker.engine.contract import AdapterFault, quoted

_ERRORS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
    NameError,
    ArithmeticError,
)
"""What converters raise, on purpose or by stumbling over keys that they did not expect."""

_HUGE_NUMBER = re.compile(r"\d{4}|(?:^|\.)[^\w.]*\d[\d_]{3,}[^\w.]*(?:\.|$)")
"""Four digits in a row, or a component that Python's `int` takes for as many: `1_000`, `+1_000`."""

_PERHAPS_HUGE = re.compile(r"\d[\d_]{3}")
"""In all of these, and in few others: a search that costs a quarter."""

_IN_PLACE = {"__iadd__": Tensor.add, "__imul__": Tensor.mul, "__itruediv__": Tensor.div, "mul_": Tensor.mul}

OnLook = Callable[[Collection[str]], object]
"""Told of the keys of tensors at whose numbers a converter looks."""

_OF_FORM = {
    "__get__",  # of a property: `shape`, `dtype`
    "__len__",
    *("dim", "element_size", "is_contiguous", "is_floating_point", "numel", "size", "stride"),
}
"""What gives no tensor and tells nothing of its numbers."""


class Converter(Protocol):
    """`lora_state_dict` of a pipeline's class."""

    def __call__(self, state: dict[str, Tensor], /, **options: object) -> tuple[Any, ...]:
        """Return tensors by diffusers' names, for some families alphas by name, and metadata."""
        ...


class _Traced(Tensor):
    """A tensor that knows which keys of the file it was made from.

    Converters scale some tensors in place, which would write into the bytes of the file: here such an
    operation makes a new tensor.
    """

    sources: frozenset[str]
    on_look: OnLook

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's own signature
        name = getattr(func, "__name__", "")
        func = _IN_PLACE.get(name, func)
        result = super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call] # torch's is
        given, made = list(_traced(args)), list(_traced([result]))
        sources: frozenset[str] = frozenset().union(*(each.sources for each in given))
        for each in made:
            each.sources, each.on_look = sources, given[0].on_look
        if given and not made and result is not None and name not in _OF_FORM:
            given[0].on_look(sources)
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """How the files of one base are read.

    Attributes:
        converter: its family's.
        unet_config: of the base's UNet, by which Stability's block names are translated; None without one.
        denoiser: the name of the component that draws.
        children: the names of its top-level modules.
    """

    converter: Converter
    unet_config: object
    denoiser: str
    children: frozenset[str]

    @property
    def renames_only(self) -> bool:
        """Whether the converter makes no new tensors: that of UNets."""
        return self.denoiser == "unet"

    def convert(
        self, tensors: Mapping[str, Tensor], on_look: OnLook
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the tensors by diffusers' names, and the alphas that are not folded in.

        Raises:
            AdapterFault: keys of no format that the family has, or of several: some would be dropped.
        """
        _refuse_huge_numbers(tensors)
        if not self.renames_only:
            _refuse_strange_alphas(tensors)
        given = (
            dict(tensors)
            if self.renames_only
            else {key: _trace(key, each, on_look) for key, each in tensors.items()}
        )
        try:
            state, *rest = self.converter(
                given, unet_config=self.unet_config, return_alphas=True, return_lora_metadata=True
            )
        except _ERRORS as error:
            raise AdapterFault(f"its keys follow no known format: {_brief(error)}") from error
        alphas = rest[0] if len(rest) > 1 and rest[0] else {}
        if self.renames_only:
            kept = {id(tensor) for tensor in state.values()}
            used = {key for key, tensor in tensors.items() if id(tensor) in kept}
        else:
            used = {key for each in _traced(state.values()) for key in each.sources}
        _refuse_dropped(tensors, used)
        named = {self._with_component(key): _untraced(tensor) for key, tensor in state.items()}
        refuse_merged(state, named, self.denoiser)
        return named, {self._with_component(key): float(alpha) for key, alpha in alphas.items()}

    def _with_component(self, key: str) -> str:
        """Return the key with its component: diffusers' FLUX converter forgets it outside of the blocks."""
        return f"{self.denoiser}.{key}" if key.partition(".")[0] in self.children else key


def _trace(key: str, tensor: Tensor, on_look: OnLook) -> Tensor:
    traced = tensor.as_subclass(_Traced)
    traced.sources, traced.on_look = frozenset({key}), on_look
    return traced


def _untraced(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor) if isinstance(tensor, _Traced) else tensor


def _traced(values: Iterable[object]) -> Iterable[_Traced]:
    for value in values:
        if isinstance(value, _Traced):
            yield value
        elif isinstance(value, list | tuple):
            yield from _traced(value)


def _refuse_huge_numbers(keys: Iterable[str]) -> None:
    """Refuse a layer of a number that no model has: some converters count up to the greatest one."""
    for key in keys:
        if _PERHAPS_HUGE.search(key) and _HUGE_NUMBER.search(key):
            raise AdapterFault(f"{quoted(key)}: no layer of any base has a number of four digits")


def _refuse_strange_alphas(tensors: Mapping[str, Tensor]) -> None:
    """Refuse alphas that no trainer writes: converters split one in two by doubling, and below 0 for ever."""
    for key, tensor in tensors.items():
        if key.endswith(".alpha") and not (tensor.numel() == 1 and 0 <= float(tensor) < math.inf):
            raise AdapterFault(f"{quoted(key)}: an alpha is one number of at least 0")


def _refuse_dropped(tensors: Mapping[str, Tensor], used: Collection[str]) -> None:
    """Refuse a file of which a tensor with an effect was dropped: alphas have none alone, nor have zeros."""
    unused = (key for key in tensors if key not in used and not key.endswith(".alpha"))
    dropped = [key for key in unused if tensors[key].any()]
    if dropped:
        raise AdapterFault(
            f"its keys mix formats: {len(dropped)} of {len(tensors)} tensors would be dropped, "
            f"such as {quoted(dropped[0])}"
        )


def refuse_merged(given: Sized, respelled: Sized, component: str) -> None:
    """Refuse keys that came to be the same: one tensor would take another one's place."""
    if len(respelled) != len(given):
        raise AdapterFault(f"several of its keys mean the same factor of the {component}")


def _brief(error: Exception) -> str:
    """Return the error in a line: converters list every key."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
