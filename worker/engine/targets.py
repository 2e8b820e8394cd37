"""The weights of a base that an adapter may change, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_CLIP_ROOT = "text_model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Every linear and convolution weight of the adaptable components.

    Attributes:
        components: the names of the components, as adapters spell them.
        weights: the weights themselves, sharing the base's storage, by `component.module`.
        names: all modules, each with the name in `weights` of its weight: tied modules have one.
    """

    components: tuple[str, ...]
    weights: Mapping[str, Tensor]
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
    names: dict[str, str] = {}
    owners: dict[int, str] = {}
    for component, root in components.items():
        for path, module in root.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                name = f"{component}.{path}"
                owner = owners.setdefault(module.weight.data_ptr(), name)
                weights.setdefault(owner, module.weight.detach())
                names[name] = owner
    return Targets(components=tuple(components), weights=weights, names=names)
