import pytest

from router.fields import MAX_FIELDS, Fields
from router.strengths import AS_IT_IS, MAX_CHANGES, MAX_PARTS, WantedStrength, read_strength
from shared.config import Limits
from shared.errors import InvalidRequest


def read(**raw):
    fields = Fields(raw, "parameters")
    strength = read_strength(fields, "lora_scale", "lora_schedule", Limits())
    fields.finish()
    return strength


def test_nothing_is_said():
    assert read() == read(lora_scale=None, lora_schedule=None) == AS_IT_IS


def test_a_number_is_for_all_of_the_base():
    assert read(lora_scale=-1) == WantedStrength(scale=-1.0)


def test_parts_are_spelled_as_diffusers_does():
    scale = {
        "unet": {"down": 0.9, "mid": 0.2, "up": {"block_0": 0.6, "block_1": [0.4, 0.8, 1.0]}},
        "text_encoder": 0.5,
        "text_encoder_2": 0,
    }
    assert read(lora_scale=scale) == WantedStrength(
        scale=1.0,
        blocks=(
            ("unet.mid_block", 0.2),
            ("unet.down_blocks", 0.9),
            ("unet.up_blocks.0", 0.6),
            ("unet.up_blocks.1.*.0", 0.4),
            ("unet.up_blocks.1.*.1", 0.8),
            ("unet.up_blocks.1.*.2", 1.0),
            ("text_encoder", 0.5),
            ("text_encoder_2", 0.0),
        ),
    )


def test_a_whole_component_is_a_part():
    assert read(lora_scale={"unet": 0.5}).blocks == (("unet", 0.5),)
    assert read(lora_scale={"transformer": 0.5}).blocks == (("transformer", 0.5),)


def test_parts_of_a_transformer_are_named_by_their_paths():
    scale = {"transformer": {"transformer_blocks.0": 0.5, "norm_out": 0.0}}
    assert read(lora_scale=scale).blocks == (
        ("transformer.transformer_blocks.0", 0.5),
        ("transformer.norm_out", 0.0),
    )


def test_a_schedule_is_a_list_of_changes():
    changes = [{"from": 0, "scale": 0.5}, {"from": 0.5, "scale": 1}]
    assert read(lora_schedule=changes).schedule == ((0.0, 0.5), (0.5, 1.0))


MID = {"unet": {"up": {"block_1": [1] * (MAX_PARTS // 2), "block_2": [1] * (MAX_PARTS // 2), "block_3": 1}}}
REFUSED = {
    "lora_scale": [4.1, "1", True, [1], MID],
    "lora_scale.unet": [{"unet": "1"}, {"unet": [1]}],
    "lora_scale.vae": [{"vae": 1}],
    "lora_scale.unet.middle": [{"unet": {"middle": 1}}],
    "lora_scale.unet.mid": [{"unet": {"mid": {"block_0": 1}}}, {"unet": {"mid": 5}}],
    "lora_scale.unet.up.1": [{"unet": {"up": {"1": 1}}}],
    "lora_scale.unet.up.block_1": [{"unet": {"up": {"block_1": []}}}, {"unet": {"up": {"block_1": "x"}}}],
    "lora_scale.unet.up.block_1[1]": [{"unet": {"up": {"block_1": [1, "x"]}}}],
    "lora_scale.transformer": [
        {"transformer": {"a" * 1000: 1}},
        {"transformer": {f"blocks.{number}": 1 for number in range(MAX_FIELDS + 1)}},
    ],
    "lora_scale.unet.down": [{"unet": {"down": {"\ud800": 1}}}],
    "lora_scale.transformer.a b": [{"transformer": {"a b": 1}}],
    "lora_scale.transformer.*": [{"transformer": {"*": 1}}],
    "lora_schedule": [1, [1], [{"from": 0, "scale": 1}] * (MAX_CHANGES + 1)],
    "lora_schedule[0].from": [[{"scale": 1}], [{"from": 1.5, "scale": 1}], [{"from": -0.1, "scale": 1}]],
    "lora_schedule[0].scale": [[{"from": 0}], [{"from": 0, "scale": 9}]],
    "lora_schedule[0].to": [[{"from": 0, "scale": 1, "to": 1}]],
    "lora_schedule[1].from": [[{"from": 0.5, "scale": 1}, {"from": 0.5, "scale": 0}]],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, all_ in REFUSED.items() for value in all_]
)
def test_what_means_nothing_is_refused_by_name(field, value):
    name = field.partition(".")[0].partition("[")[0]
    with pytest.raises(InvalidRequest) as caught:
        read(**{name: value})
    assert caught.value.field.startswith(f"parameters.{field}")
