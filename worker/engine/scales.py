"""How strongly each module's factors count: alpha and rank, by module, from the PEFT config in a file.

The rule is PEFT's (`LoraLayer.update_layer` and `get_pattern_key`): `alpha / rank`, or
`alpha / sqrt(rank)` with `use_rslora`, where `alpha_pattern` and `rank_pattern` override both for the
modules that they name. Patterns are taken as names: they come from strangers, and a regular expression of
a stranger may run for ever.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from worker.engine.contract import AdapterFault, quoted

CONFIG_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the LoRA config in a safetensors header."""

MAX_NAMES = 10_000
"""Of a pattern: as many as a file may have tensors."""

Pattern = Mapping[str, tuple[int, float]]
"""Numbers by module name, each with its place among them: the first name that fits is taken."""

_NAME = re.compile(r"\^?[\w.]+")
_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
"""The ways to begin a training that leave the base as it is: they set the factors alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """The part of a component's PEFT config that changes what its factors mean."""

    rank: int
    alpha: float
    rank_pattern: Pattern
    alpha_pattern: Pattern
    rslora: bool
    dora: bool

    def scale(self, module: str, rank: int | None) -> float:
        """Return what the matrix of `module` is multiplied with; `rank` is that of its factors, if any.

        Raises:
            AdapterFault: the config speaks of another rank.
        """
        declared = _lookup(self.rank_pattern, module, self.rank)
        if rank is not None and declared != rank:
            raise AdapterFault(
                f"{quoted(module)}: its factors have rank {rank}, the file's config says {declared:g}"
            )
        if declared <= 0:
            raise AdapterFault(f"{quoted(module)}: the file's config says rank {declared:g}")
        alpha = _lookup(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(declared) if self.rslora else declared)


def read_configs(metadata: Mapping[str, str], components: tuple[str, ...]) -> dict[str, LoraConfig]:
    """Return the config of each component that the header of a file has one for.

    A config without a component's name is the first one's: so diffusers writes a model's own adapter.

    Raises:
        AdapterFault: a config is broken, or asks for what changes the base itself.
    """
    if not metadata.get(CONFIG_KEY):
        return {}
    try:
        fields = json.loads(metadata[CONFIG_KEY])
        parts = {name: _fields_of(name, fields) for name in components}
        if "r" in fields:
            parts = {components[0]: fields}
        return {name: _config(part) for name, part in parts.items() if part}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise AdapterFault(f"the LoRA config in the file's header is broken: {error}") from error


def _fields_of(component: str, fields: Mapping[str, object]) -> dict[str, object]:
    prefix = f"{component}."
    return {key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)}


def _config(fields: Mapping[str, object]) -> LoraConfig:
    init = fields.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise AdapterFault(
            f"the file's config has init_lora_weights={quoted(str(init))}, which changes "
            "the base's own weights; convert the adapter to a plain LoRA"
        )
    return LoraConfig(
        # the defaults of peft.LoraConfig
        rank=int(_number(fields.get("r", 8))),
        alpha=_number(fields.get("lora_alpha", fields.get("alpha", 8))),  # LoHa's and LoKr's: `alpha`
        rank_pattern=_pattern(fields.get("rank_pattern")),
        alpha_pattern=_pattern(fields.get("alpha_pattern")),
        rslora=bool(fields.get("use_rslora")),
        dora=bool(fields.get("use_dora")),
    )


def _pattern(value: object) -> Pattern:
    if not isinstance(value, dict):
        if value:
            raise TypeError("a pattern is an object of numbers by module name")
        return {}
    if len(value) > MAX_NAMES:
        raise ValueError(f"a pattern of {len(value)} names; it may have {MAX_NAMES}")
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{quoted(name)} is not a module name")
    return {name: (place, _number(number)) for place, (name, number) in enumerate(value.items())}


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{quoted(str(value))} is not a number of at least 0")
    return float(value)


def _lookup(pattern: Pattern, module: str, default: float) -> float:
    """Return the value of the first name that is `module` or its end; `^` asks for all of it."""
    if not pattern:
        return default
    parts = module.split(".")
    ends = {".".join(parts[start:]) for start in range(len(parts))} | {f"^{module}"}
    # never by a walk through the pattern: a stranger's is long, and there is one look-up for each layer
    return min((pattern[end] for end in ends if end in pattern), default=(0, default))[1]
