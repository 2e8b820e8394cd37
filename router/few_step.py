"""Adapters that teach a base to draw in a few steps. They need their own scheduler, steps and guidance.

Their cards and files seldom say so in a form for programs (a file's `modelspec.usage_hint` is a sentence for
people); their names do. The numbers are those of the authors' cards: latent-consistency/lcm-lora-sdxl,
h1t/TCD-SDXL-LoRA, ByteDance/SDXL-Lightning, ByteDance/Hyper-SD, alimama-creative/FLUX.1-Turbo-Alpha,
lightx2v/Qwen-Image-Lightning, tianweiy/DMD2, jasperai/flash-sdxl, wangfuyun/PCM_Weights, and for what was
extracted from it stabilityai/sdxl-turbo.
"""

import re
from dataclasses import dataclass, replace

from router.hub_metadata import CardDefaults
from shared.refs import RepoId

TRAILING = "trailing"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What adapters with such a name need; a number of steps in the name goes before the one here."""

    name: re.Pattern[str]
    needs: CardDefaults


def _kind(name: str, **needs: float | str | None) -> _Kind:
    return _Kind(name=re.compile(name), needs=CardDefaults(**needs))  # type: ignore[arg-type] # fields by name


_KINDS = (
    _kind(r"hyper.?flux", steps=8, guidance_scale=3.5, scale=0.125),
    _kind(r"hyper.?sd3", steps=8, guidance_scale=5.0, scale=0.125),
    _kind(
        r"hyper.?sd.*cfg", steps=8, guidance_scale=5.0, scheduler="DDIMScheduler", timestep_spacing=TRAILING
    ),
    _kind(r"hyper.?sd(15|xl).*1.?step", steps=1, guidance_scale=0.0, scheduler="TCDScheduler"),
    _kind(
        r"hyper.?sd(15|xl)",
        steps=4,
        guidance_scale=0.0,
        scheduler="DDIMScheduler",
        timestep_spacing=TRAILING,
    ),
    _kind(r"qwen.*lightning", steps=8, guidance_scale=1.0),
    _kind(
        r"(sdxl|sd).?lightning|lightning.*(?<!\d)\d{1,2}.?step",  # a style may be called so, too
        steps=4,
        guidance_scale=0.0,
        scheduler="EulerDiscreteScheduler",
        timestep_spacing=TRAILING,
    ),
    _kind(r"flux.?1?.?(d(ev)?)?.?turbo", steps=8, guidance_scale=3.5),
    _kind(r"(?<![a-z])tcd(?![a-z])", steps=4, guidance_scale=0.0, scheduler="TCDScheduler"),
    _kind(r"(?<![a-z])lcm(?![a-z])|pcm.*lcm.?like", steps=4, guidance_scale=1.0, scheduler="LCMScheduler"),
    _kind(
        r"(?<![a-z])pcm.*small.?cfg",
        steps=4,
        guidance_scale=1.0,
        scheduler="DDIMScheduler",
        timestep_spacing=TRAILING,
    ),
    _kind(
        r"(?<![a-z])pcm.*normal.?cfg",
        steps=8,
        guidance_scale=3.0,
        scheduler="DDIMScheduler",
        timestep_spacing=TRAILING,
    ),
    _kind(r"(?<![a-z])dmd2", steps=4, guidance_scale=0.0, scheduler="LCMScheduler"),
    _kind(
        r"^flash.?(sdxl|sd)(?![a-z0-9])",  # others draw with a flash
        steps=4,
        guidance_scale=0.0,
        scheduler="LCMScheduler",
        timestep_spacing=TRAILING,
    ),
    _kind(
        r"sd.?xl.{0,5}turbo",
        steps=4,
        guidance_scale=0.0,
        scheduler="EulerAncestralDiscreteScheduler",
        timestep_spacing=TRAILING,
    ),
)
"""The first whose name is found counts: those that are parts of others come after them."""

_STEPS = re.compile(r"(?<!\d)([1-9]\d?)[-_ ]?steps?(?![a-z])")


def few_step_defaults(repo: RepoId, weight_name: str) -> CardDefaults | None:
    """Return what a weight file needs to draw in a few steps; None for every other adapter.

    The file's own name goes before the repository's: some hold files of several kinds.
    """
    for text in (weight_name.rpartition("/")[2].lower(), repo.partition("/")[2].lower()):
        for kind in _KINDS:
            if kind.name.search(text):
                steps = _STEPS.search(weight_name.lower()) or _STEPS.search(repo.lower())
                return replace(kind.needs, steps=int(steps[1])) if steps else kind.needs
    return None
