"""All that a file holds of each module of a base, whatever kinds it mixes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine.contract import AdapterFault, quoted
from worker.engine.keys import KOHYA, SortedKeys
from worker.engine.spelling import SpelledLayer

Spell = Callable[[Mapping[str, Tensor]], Sequence[SpelledLayer]]
"""From the keys of plain LoRAs to modules, with the converter of the base's family."""


@dataclass(kw_only=True, slots=True)
class Layer:
    """What a file holds of one module.

    Attributes:
        component: as adapters spell it, such as `unet`.
        module: the path in it, as far as the converter could tell.
        parts: by the name that their key ends with; `lora_up` and `lora_down` in every spelling.
        alpha: as the file has it, if it has one.
    """

    component: str
    module: str
    parts: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None

    @property
    def label(self) -> str:
        """What messages call it; no longer than a line."""
        return quoted(f"{self.component}.{self.module}")[1:-1]

    def take(self, part: str) -> Tensor:
        """Return a part that there has to be, and count it as used.

        Raises:
            AdapterFault: it is not there.
        """
        if part not in self.parts:
            raise AdapterFault(f"{self.label}: it has no {part}, which the rest of it needs")
        return self.parts.pop(part)


def read_layers(found: SortedKeys[Tensor], spell: Spell) -> list[Layer]:
    """Join the plain factors and the other parts of each module.

    Raises:
        AdapterFault: keys that no converter understands, or that speak of one thing twice.
    """
    layers: dict[tuple[str, str], Layer] = {}

    def layer(component: str, module: str) -> Layer:
        return layers.setdefault((component, module), Layer(component=component, module=module))

    for plain in spell(found.plain) if found.plain else ():
        target = layer(plain.component, plain.module)
        target.parts |= {"lora_up": plain.up, "lora_down": plain.down}
        target.alpha = plain.alpha
    for name, (component, module) in _places(list(found.parts), spell).items():
        target = layer(component, module)
        parts = dict(found.parts[name])
        if "alpha" in parts:
            target.alpha = _number(name, parts.pop("alpha"))
        if target.parts.keys() & parts.keys():
            raise AdapterFault(
                f"{target.label}: two names in the file mean this module, one is {quoted(name)}"
            )
        target.parts |= parts
    return list(layers.values())


def _places(names: Sequence[str], spell: Spell) -> dict[str, tuple[str, str]]:
    """Return component and module of each layer's name, by the converter's own rules.

    Converters know LoRAs only. So each layer is given the factors of one, which are recognised by where
    they lie in memory when the converter has renamed them.
    """
    stand_ins = torch.ones(len(names), 2, 1, 1)
    state: dict[str, Tensor] = {}
    for name, (down, up) in zip(names, stand_ins, strict=True):
        ends = (".lora_down.weight", ".lora_up.weight") if name.startswith(KOHYA) else _PEFT_ENDS
        state |= {name + ends[0]: down, name + ends[1]: up}
    spelled = {each.down.data_ptr(): each for each in spell(state)} if state else {}
    places = {}
    for name, (down, _) in zip(names, stand_ins, strict=True):
        if down.data_ptr() not in spelled:
            raise AdapterFault(
                f"{quoted(name)}: for this base, only LoRAs are served in this spelling; "
                "diffusers' own names are understood"
            )
        layer = spelled[down.data_ptr()]
        places[name] = (layer.component, layer.module)
    return places


_PEFT_ENDS = (".lora_A.weight", ".lora_B.weight")


def _number(name: str, alpha: Tensor) -> float:
    if alpha.numel() != 1:
        raise AdapterFault(f"{quoted(name)}: its alpha is {alpha.numel()} numbers")
    return float(alpha)
