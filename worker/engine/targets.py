"""The weights of a base that an adapter may change, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_CLIP_ROOT = "text_model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Every linear and convolution weight of the adaptable components.

    Attributes:
        components: the names of the components, as adapters spell them.
        weights: the weights themselves, sharing the base's storage, by `component.module`; of those that
            cannot be rewritten the shape alone, as a meta tensor.
        kept: the layers whose weight cannot be rewritten, by the same names.
        names: all modules, each with the name in `weights` of its weight: tied modules have one.
    """

    components: tuple[str, ...]
    weights: Mapping[str, Tensor]
    kept: Mapping[str, nn.Module]
    names: Mapping[str, str]

    def find(self, component: str, module: str) -> str | None:
        """Return the name of the weight of `module`, None when there is no such layer.

        Files write CLIP's modules with or without `text_model.`, and so do versions of transformers.
        """
        for spelling in (module, module.removeprefix(_CLIP_ROOT), _CLIP_ROOT + module):
            name = self.names.get(f"{component}.{spelling}")
            if name is not None:
                return name
        return None


def find_targets(components: Mapping[str, nn.Module]) -> Targets:
    """Collect the weights of `components`."""
    weights: dict[str, Tensor] = {}
    kept: dict[str, nn.Module] = {}
    names: dict[str, str] = {}
    owners: dict[int, str] = {}
    for component, root in components.items():
        for path, module in root.named_modules():
            name = f"{component}.{path}"
            if isinstance(module, nn.Linear | nn.Conv2d) and can_be_rewritten(module.weight):
                owner = owners.setdefault(module.weight.data_ptr(), name)
                weights.setdefault(owner, module.weight.detach())
                names[name] = owner
            elif isinstance(module, nn.Linear):
                weights[name] = torch.empty(module.out_features, module.in_features, device="meta")
                kept[name] = module
                names[name] = name
    return Targets(components=tuple(components), weights=weights, kept=kept, names=names)


def can_be_rewritten(weight: object) -> bool:
    """Whether `weight` is plain numbers: a parameter of PyTorch's own class, of 16 bits or more.

    Quantised weights are integers, or parameters or tensors of the quantiser's own class: bitsandbytes'
    `Params4bit` and `Int8Params`, diffusers' `GGUFParameter`, torchao's tensors.
    """
    return (
        type(weight) is nn.Parameter
        and type(weight.data) is Tensor
        and weight.is_floating_point()
        and weight.element_size() >= 2
    )
