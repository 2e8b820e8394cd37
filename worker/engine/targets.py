"""The weights of a base that an adapter may change, by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

_CLIP_ROOT = "text_model."

_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, RMSNorm)

_SGM_NORMS = ((".in.layers.0", ".norm1"), (".out.layers.0", ".norm2"), ("unet.out.0", "unet.conv_norm_out"))
"""Stability's names of norms, which the LoRA converter leaves: diffusers' `convert_ldm_unet_checkpoint`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """The weights and biases of every linear layer, convolution and norm of the adaptable components.

    Attributes:
        components: the names of the components, as adapters spell them.
        weights: the weights themselves, sharing the base's storage, by `component.module`; biases by
            `component.module.bias`. Of those that cannot be rewritten the shape alone, as a meta tensor.
        kept: the layers whose weight cannot be rewritten, by the same names.
        names: all modules, each with the name in `weights` of its weight: tied modules have one.
        flat: the same by names that have underscores for dots, as Kohya writes them.
    """

    components: tuple[str, ...]
    weights: Mapping[str, Tensor]
    kept: Mapping[str, nn.Module]
    names: Mapping[str, str]
    flat: Mapping[str, str]

    def find(self, component: str, module: str) -> str | None:
        """Return the name of the weight of `module`, None when there is no such layer.

        Files write CLIP's modules with or without `text_model.`, and so do versions of transformers. From
        Kohya's underscores diffusers' converter makes dots, also some that should be none.
        """
        for spelling in (module, module.removeprefix(_CLIP_ROOT), _CLIP_ROOT + module):
            path = f"{component}.{spelling}"
            name = self.names.get(path) or self.flat.get(_flat(path))
            if name is not None:
                return name
        return None

    def find_bias(self, component: str, module: str) -> str | None:
        """Return the name of the bias of `module`, None when there is none."""
        return self.find(component, f"{module}.bias")


def find_targets(components: Mapping[str, nn.Module]) -> Targets:
    """Collect the weights of `components`."""
    weights: dict[str, Tensor] = {}
    kept: dict[str, nn.Module] = {}
    names: dict[str, str] = {}
    owners: dict[int, str] = {}
    for component, root in components.items():
        for path, module in root.named_modules():
            if isinstance(module, _ADAPTABLE):
                for name, weight in _weights_of(f"{component}.{path}", module):
                    owner = owners.setdefault(weight.data_ptr(), name)
                    weights.setdefault(owner, weight)
                    names[name] = owner
            if isinstance(module, nn.Linear) and not can_be_rewritten(module.weight):
                name = f"{component}.{path}"
                weights[name] = torch.empty(module.out_features, module.in_features, device="meta")
                kept[name] = module
                names[name] = name
    flat = {_flat(name): owner for name, owner in names.items()}
    return Targets(components=tuple(components), weights=weights, kept=kept, names=names, flat=flat)


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


def _weights_of(path: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, part in ((path, "weight"), (f"{path}.bias", "bias")):
        weight = getattr(module, part, None)
        if weight is not None and can_be_rewritten(weight):
            yield name, weight.detach()


def _flat(path: str) -> str:
    for names, path_in_base in _SGM_NORMS:
        path = path.replace(names, path_in_base)
    return path.replace(".", "_")
