"""Kinds of adapters by their keys."""

import pytest

from worker.engine.contract import AdapterFault
from worker.engine.kinds import refuse_unsupported


@pytest.mark.parametrize(
    "keys",
    [
        ["unet.a.lora_A.weight", "unet.a.lora_B.weight"],
        ["unet.a.processor.to_q_lora.down.weight"],
        ["lora_unet_a.lora_down.weight", "lora_unet_a.alpha"],
        ["text_encoder.a.lora_linear_layer.up.weight"],
    ],
)
def test_loras_pass(keys: list[str]) -> None:
    refuse_unsupported(keys)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_a.dora_scale", "DoRA"),
        ("unet.a.lora_magnitude_vector", "DoRA"),
        ("unet.a.lora_magnitude_vector.weight", "DoRA"),
        ("lora_unet_a.hada_w2_b", "LoHa"),
        ("lora_unet_a.lokr_w1", "LoKr"),
        ("lora_unet_a.lokr_t2", "LoKr"),
        ("lora_unet_a.oft_blocks", "OFT"),
        ("lora_unet_a.a1.weight", "GLoRA"),
        ("lora_unet_a.on_input", "IA3"),
        ("lora_unet_a.lora_mid.weight", "middle factor"),
        ("lora_unet_a.diff", "full differences"),
        ("lora_unet_a.diff_b", "full differences"),
        ("unet.a.lora_B.bias", "bias"),
        ("clip_g", "embeddings"),
        ("text_encoders_0", "embeddings"),
        ("bundle_emb.style.string_to_param.*", "embeddings"),
    ],
)
def test_others_are_refused_by_their_kind_even_among_lora_keys(key: str, kind: str) -> None:
    with pytest.raises(AdapterFault, match=kind):
        refuse_unsupported(["unet.a.lora_A.weight", key])


def test_a_checkpoint_is_no_lora() -> None:
    with pytest.raises(AdapterFault, match="not a LoRA"):
        refuse_unsupported(["model.diffusion_model.input_blocks.0.0.weight"])
