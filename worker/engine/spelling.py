"""From a file's keys to layers. diffusers' own converters translate; what they would drop is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor

from worker.engine.contract import AdapterFault, quoted
from worker.engine.conversion import Conversion, OnLook, refuse_merged

V = TypeVar("V")

_DOWN = ".lora_A.weight"
_UP = ".lora_B.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpelledLayer:
    """The factors of one module, as the file holds them; alpha where the file has one for it."""

    component: str
    module: str
    up: Tensor
    down: Tensor
    alpha: float | None


def spell(
    tensors: Mapping[str, Tensor],
    components: tuple[str, ...],
    conversion: Conversion,
    on_look: OnLook,
) -> list[SpelledLayer]:
    """Return the layers that `tensors` hold, in whichever of the formats that the base's family knows.

    Raises:
        AdapterFault: a key that no converter understands, or half of a layer.
    """
    state, alphas = conversion.convert(tensors, on_look)
    by_component = _split(state, components)
    alphas_of = _split({_factor_key(key): alpha for key, alpha in alphas.items()}, components)
    return [
        layer
        for component, part in by_component.items()
        for layer in _layers(
            component, _to_peft(component, part), _to_peft(component, alphas_of.get(component, {}))
        )
    ]


def _split(values: Mapping[str, V], components: tuple[str, ...]) -> dict[str, dict[str, V]]:
    parts: dict[str, dict[str, V]] = {component: {} for component in components}
    for key, value in values.items():
        component, _, rest = key.partition(".")
        # also parts that this base lacks: how much of the file that is, decides what becomes of it
        parts.setdefault(component, {})[rest] = value
    return parts


def _factor_key(alpha_key: str) -> str:
    """Return a factor's key of the layer that an alpha belongs to, so that both are converted alike.

    diffusers makes some alpha keys from the layer's name and others from the whole key of a factor.
    """
    layer = alpha_key.removesuffix(".alpha")
    return layer if layer.endswith(".weight") else f"{layer}.lora.down.weight"


def _to_peft(component: str, part: dict[str, V]) -> dict[str, V]:
    """Respell keys as PEFT does: `<module>.lora_A.weight` is down, `lora_B` is up."""
    if not component.startswith("text_encoder"):
        converted = convert_unet_state_dict_to_peft(part)
    else:
        # both ages of diffusers' text-encoder keys; neither translation changes what is PEFT's already
        for age in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
            part = convert_state_dict_to_peft(part, original_type=age)
        # layers outside of attention and MLP, which the first two leave
        converted = convert_unet_state_dict_to_peft(part)
    refuse_merged(part, converted, component)
    return dict(converted)


def _layers(component: str, tensors: dict[str, Tensor], alphas: dict[str, float]) -> list[SpelledLayer]:
    def fault(module: str, what: str) -> AdapterFault:
        return AdapterFault(f"{quoted(f'{component}.{module}')}: {what}")

    layers = []
    ups = {key.removesuffix(_UP): tensor for key, tensor in tensors.items() if key.endswith(_UP)}
    for key, down in tensors.items():
        if key.endswith(_UP):
            continue
        module = key.removesuffix(_DOWN)
        if module == key:
            raise fault(module, "not the key of a LoRA factor")
        if module not in ups:
            raise fault(module, "has a down factor, but no up factor")
        alpha = alphas.get(key)
        layers.append(
            SpelledLayer(component=component, module=module, up=ups.pop(module), down=down, alpha=alpha)
        )
    if ups:
        raise fault(next(iter(ups)), "has an up factor, but no down factor")
    return layers
