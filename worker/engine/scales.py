"""How strongly each module's factors count: alpha and rank, by module, from a file's LoRA config.

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

from worker.engine.contract import AdapterFault

CONFIG_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the LoRA config in a safetensors header."""

_NAME = re.compile(r"\^?[\w.]+")
_PLAIN_INITS = (True, False, None, "gaussian")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """The part of a component's PEFT config that changes what its factors mean."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    rslora: bool

    def scale(self, module: str, rank: int) -> float:
        """Return what `up @ down` of `module` is multiplied with; `rank` is that of its factors.

        Raises:
            AdapterFault: the config speaks of another rank.
        """
        declared = _lookup(self.rank_pattern, module, self.rank)
        if declared != rank:
            raise AdapterFault(f"{module}: its factors have rank {rank}, the file's config says {declared:g}")
        alpha = _lookup(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_configs(metadata: Mapping[str, str], components: tuple[str, ...]) -> dict[str, LoraConfig]:
    """Return the config of each component that the header of a file has one for.

    Raises:
        AdapterFault: a config is broken, or asks for more than a LoRA.
    """
    if not metadata.get(CONFIG_KEY):
        return {}
    try:
        fields = json.loads(metadata[CONFIG_KEY])
        parts = {name: _fields_of(name, fields) for name in components}
        return {name: _config(part) for name, part in parts.items() if part}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise AdapterFault(f"the LoRA config in the file's header is broken: {error}") from error


def _fields_of(component: str, fields: Mapping[str, object]) -> dict[str, object]:
    prefix = f"{component}."
    return {key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)}


def _config(fields: Mapping[str, object]) -> LoraConfig:
    if fields.get("use_dora"):
        raise AdapterFault("kind not supported yet: DoRA (use_dora in the file's config)")
    if fields.get("init_lora_weights", True) not in _PLAIN_INITS:
        raise AdapterFault(
            f"the file's config has init_lora_weights={fields['init_lora_weights']!r}, which changes "
            "the base's own weights; convert the adapter to a plain LoRA"
        )
    return LoraConfig(
        # the defaults of peft.LoraConfig
        rank=int(_number(fields.get("r", 8))),
        alpha=_number(fields.get("lora_alpha", 8)),
        rank_pattern=_pattern(fields.get("rank_pattern")),
        alpha_pattern=_pattern(fields.get("alpha_pattern")),
        rslora=bool(fields.get("use_rslora")),
    )


def _pattern(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        if value:
            raise TypeError("a pattern is an object of numbers by module name")
        return {}
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a module name")
    return {name: _number(number) for name, number in value.items()}


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is not a number of at least 0")
    return float(value)


def _lookup(pattern: Mapping[str, float], module: str, default: float) -> float:
    """Return the value of the first name that is `module` or its end; `^` asks for all of it."""
    if not pattern:
        return default
    parts = module.split(".")
    ends = {".".join(parts[start:]) for start in range(len(parts))} | {f"^{module}"}
    matches = ends & pattern.keys()
    if not matches:
        return default
    return pattern[matches.pop()] if len(matches) == 1 else next(pattern[n] for n in pattern if n in matches)
