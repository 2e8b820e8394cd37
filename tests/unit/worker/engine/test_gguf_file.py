"""Which bases take a GGUF file in their denoiser's place."""

import pytest

from shared.errors import UnsupportedModel
from shared.refs import RepoId
from worker.engine.gguf_file import replaced_part

BASE = RepoId("tests/base")


@pytest.mark.parametrize(
    ("part", "kind"), [("transformer", "FluxTransformer2DModel"), ("unet", "UNet2DConditionModel")]
)
def test_the_denoiser_is_what_is_replaced(part: str, kind: str) -> None:
    index = {"_class_name": "SomePipeline", "vae": ["diffusers", "AutoencoderKL"], part: ["diffusers", kind]}
    assert replaced_part(BASE, index) == part


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (
            {"transformer": ["diffusers", "CogView4Transformer2DModel"]},
            "no CogView4Transformer2DModel from one",
        ),
        (
            {"transformer": ["diffusers", "BriaFiboTransformer2DModel"]},
            "no BriaFiboTransformer2DModel from one",
        ),
        ({"transformer": ["strange", "NoSuchModel"]}, "no NoSuchModel from one"),
    ],
)
def test_what_diffusers_cannot_read_from_a_file_is_refused_by_name(
    index: dict[str, object], said: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"tests/base takes no GGUF file: diffusers reads {said}"):
        replaced_part(BASE, index)


def test_a_base_that_has_nothing_to_replace_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no part that draws, which is a unet or a transformer"):
        replaced_part(BASE, {"vae": ["diffusers", "AutoencoderKL"]})
