"""The pipelines that are served, and what of each cannot be read from its class.

A family is one pipeline class of diffusers that draws pictures from text and has a LoRA loader. Which parts
an adapter may change, how its files are spelled, and which arguments a call takes are diffusers' own:
`_lora_loadable_modules`, `lora_state_dict` and the signature of `__call__`.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
from diffusers.loaders.lora_base import LoraBaseMixin

from shared.errors import UnsupportedModel

_DENOISERS = ("unet", "transformer")

_VIDEO = frozenset({"num_frames", "video", "frames", "num_videos_per_prompt"})
_AUDIO = frozenset({"audio_end_in_s", "audio_length_in_s", "audio_duration", "lyrics"})
_PICTURE = frozenset({"image", "control_image", "image_embeds"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A pipeline class, and the facts about it that stand in its code only.

    Attributes:
        name: the class, as `_class_name` of model_index.json spells it.
        patch: latents per side of what the denoiser takes as one; sides are multiples of it and of the VAE's
            factor.
        side: width and height where neither signature nor configuration say any.
        any_scheduler: its loop works with each scheduler that diffusers calls compatible, not only its own.
        options: arguments of each call.
        guidance_default: where the signature has none.
        strength_in_scheduler: drawing from a picture, all steps are made, in the part of the time that the
            strength says; the others make that part of the steps.
    """

    name: str
    patch: int = 2
    side: int | None = None
    any_scheduler: bool = False
    options: Mapping[str, object] = field(default_factory=dict)
    guidance_default: float | None = None
    strength_in_scheduler: bool = False

    @property
    def pipeline(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """The class. Imported when asked for: all of them together take seconds."""
        return getattr(diffusers, self.name)

    @property
    def image_to_image(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """The class that draws from a picture with the same components; None if diffusers has none."""
        return getattr(diffusers, f"{self.name.removesuffix('Pipeline')}Img2ImgPipeline", None)

    @property
    def adaptable(self) -> tuple[str, ...]:
        """The components that its LoRA loader loads into; the base may lack some of them."""
        return tuple(self.pipeline._lora_loadable_modules)  # noqa: SLF001 - it is public in all but name

    @property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """What a call takes."""
        return inspect.signature(self.pipeline.__call__).parameters

    @property
    def guidance(self) -> str:
        """The argument that a request's guidance scale is.

        Qwen-Image's `guidance_scale` is None and for distilled models to come; its guidance is the true one.
        """
        scale = self.arguments.get("guidance_scale")
        if scale is None or ("true_cfg_scale" in self.arguments and scale.default is None):
            return "true_cfg_scale"
        return "guidance_scale"

    @property
    def takes_negative(self) -> bool:
        """Whether a negative prompt has an effect; FLUX.1's pipeline, guided by distillation, ignores it."""
        distilled = self.guidance == "guidance_scale" and "true_cfg_scale" in self.arguments
        return "negative_prompt" in self.arguments and not distilled

    @property
    def no_negative(self) -> str | None:
        """What stands for no negative prompt; None: the argument is left out.

        Where guidance is `true_cfg_scale`, diffusers guides only if there is a negative prompt, and the
        models' cards give a blank.
        """
        return " " if self.guidance == "true_cfg_scale" else None


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(name="StableDiffusionPipeline", patch=1, any_scheduler=True),
        Family(name="StableDiffusionXLPipeline", patch=1, any_scheduler=True),
        Family(name="KolorsPipeline", patch=1, any_scheduler=True),
        Family(name="LatentConsistencyModelPipeline", patch=1, strength_in_scheduler=True),
        Family(name="StableDiffusion3Pipeline"),
        Family(name="FluxPipeline"),
        Family(name="Flux2Pipeline"),
        Family(name="Flux2KleinPipeline"),
        Family(name="ChromaPipeline"),
        Family(name="AuraFlowPipeline"),
        # else they draw at the nearest of some sizes, and scale and cut that to the one asked for
        Family(name="SanaPipeline", patch=1, options={"use_resolution_binning": False}),
        Family(name="SanaSprintPipeline", patch=1, options={"use_resolution_binning": False}),
        Family(name="Lumina2Pipeline"),
        Family(name="CogView4Pipeline"),
        Family(name="HiDreamImagePipeline"),
        Family(name="QwenImagePipeline"),
        Family(name="ZImagePipeline", side=1024),
        Family(name="Krea2Pipeline"),
        # its language model rewrites the prompt, each time in another way: no seed would fix the picture
        Family(name="ErnieImagePipeline", patch=1, options={"use_pe": False}),
        Family(name="BriaFiboPipeline"),
        # its schedule of guidance fits one number of steps only
        Family(name="Ideogram4Pipeline", options={"guidance_schedule": None}, guidance_default=7.0),
    )
}
"""By class name."""

_NOT_YET = {
    "Kandinsky3Pipeline": "it has a UNet into which diffusers' own LoRA loader cannot load",
    "Kandinsky5T2IPipeline": "it cannot be tried without torchvision, which its processor needs",
    "QwenImage21Pipeline": "it cannot be tried without torchvision, which its processor needs",
    "BriaFibo2Pipeline": "it cannot be tried without torchvision, which its processor needs",
}
"""Pipelines that draw from text and have a LoRA loader, but no `Family`."""


def find_family(name: object) -> Family:
    """Return the family of a pipeline's class name.

    Raises:
        UnsupportedModel: it is not served; the message says why.
    """
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise UnsupportedModel(f"{name} is not served: {_why_not(name)}")
    return family


def denoiser_of(pipeline: Any) -> Any:  # noqa: ANN401
    """Return the component that draws."""
    return pipeline.components[denoiser_name(pipeline.components)]


def denoiser_name(parts: Collection[str]) -> str:
    """Return the name of the part that draws.

    Raises:
        UnsupportedModel: there is none.
    """
    name = next((name for name in _DENOISERS if name in parts), None)
    if name is None:
        raise UnsupportedModel(f"it has no part that draws, which is a {' or a '.join(_DENOISERS)}")
    return name


def _why_not(name: object) -> str:
    if name in _NOT_YET:
        return _NOT_YET[str(name)]
    kind: Any = (
        getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Pipeline") else None
    )
    if not inspect.isclass(kind):
        return "diffusers has no such pipeline"
    if not issubclass(kind, diffusers.DiffusionPipeline):
        return "it needs a library that is not installed"  # diffusers puts a dummy in its place
    arguments = inspect.signature(kind.__call__).parameters.keys()
    parts = inspect.signature(kind.__init__).parameters.keys()
    reasons = {
        "it makes videos, not pictures": _VIDEO & arguments,
        "it makes sound, not pictures": _AUDIO & arguments,
        "it starts from a picture, not from text alone": _PICTURE & arguments,
        "diffusers has no LoRA loader for it": not issubclass(kind, LoraBaseMixin),
        "its LoRA loader loads nothing into its denoiser": not {*_DENOISERS}
        & {*getattr(kind, "_lora_loadable_modules", ())}
        & parts,
    }
    others = f"the pipelines served are {', '.join(FAMILIES)}"
    return next((reason for reason, applies in reasons.items() if applies), others)
