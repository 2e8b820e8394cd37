"""The few files of a repository that the Hub reads to describe it. Pure: bytes in, values out."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import yaml

CARD = "README.md"
MODEL_INDEX = "model_index.json"
ADAPTER_CONFIG = "adapter_config.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"

# The client finds the block the same way (REGEX_YAML_BLOCK in its repocard.py).
_FRONT_MATTER = re.compile(r"^\s*---[\r\n]+(.*?)[\r\n]+---(?:\r\n|\r|\n|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """What those files say; None where a file is missing or cannot be read as what it should be."""

    card: Mapping[str, object] | None = None
    model_index: Mapping[str, object] | None = None
    adapter_config: Mapping[str, object] | None = None
    config: Mapping[str, object] | None = None
    parameters: Mapping[str, int] | None = None


def parse_card(content: bytes) -> Mapping[str, object] | None:
    """Return the YAML front matter of a model card, in types that JSON has."""
    block = _FRONT_MATTER.match(content.decode(errors="replace").removeprefix("\ufeff"))
    if block is None:
        return None
    try:
        given = yaml.safe_load(block.group(1))
    except yaml.YAMLError:
        return None
    return {str(key): _as_json(value) for key, value in given.items()} if isinstance(given, dict) else None


def parse_object(content: bytes) -> Mapping[str, object] | None:
    """Return a JSON file's object."""
    try:
        given = json.loads(content)
    except ValueError:
        return None
    return given if isinstance(given, dict) else None


def count_parameters(header: bytes) -> Mapping[str, int] | None:
    """Return how many numbers of each type a safetensors file holds, from its header."""
    tensors = parse_object(header)
    if tensors is None:
        return None
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name == "__metadata__":
            continue
        match tensor:
            case {"dtype": str(dtype), "shape": list(shape)} if all(isinstance(n, int) for n in shape):
                counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
            case _:
                return None
    return counts


def _as_json(value: object) -> object:
    match value:
        case dict():
            return {str(key): _as_json(item) for key, item in value.items()}
        case list():
            return [_as_json(item) for item in value]
        case date():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return None
        case str() | bool() | int() | float() | None:
            return value
        case _:
            return str(value)
