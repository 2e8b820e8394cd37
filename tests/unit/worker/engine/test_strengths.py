"""Where and when an adapter counts how much."""

import pytest

from tests.builders import an_adapter
from worker.engine.strengths import Strength, factors_of, parts_of, strength_at, unknown_path

BLOCKS = (("unet.up_blocks", 0.5), ("unet.up_blocks.1.*.0", 0.25), ("text_encoder", 0.0))


@pytest.mark.parametrize(
    ("weight", "counts"),
    [
        ("unet.down_blocks.0.attentions.0.proj_in", None),
        ("unet.up_blocks.0.attentions.0.proj_in", 0.5),
        ("unet.up_blocks.1.attentions.1.proj_in", 0.5),
        ("unet.up_blocks.1.attentions.0.proj_in", 0.25),
        ("unet.up_blocks.1.resnets.0.conv1", 0.25),
        ("text_encoder.encoder.layers.0.mlp.fc1", 0.0),
        ("text_encoder_2.encoder.layers.0.mlp.fc1", None),
    ],
)
def test_the_longest_path_that_a_weight_lies_in_counts(weight, counts):
    assert factors_of(BLOCKS, parts_of([weight])) == ({} if counts is None else {weight: counts})


def test_a_path_ends_with_a_whole_name():
    weights = parts_of(["unet.up_blocks.1.x", "unet.up_blocks.10.x", "unet"])
    assert factors_of((("unet.up_blocks.1", 0.5),), weights) == {"unet.up_blocks.1.x": 0.5}


def test_of_paths_that_are_equally_long_the_first_counts():
    weights = parts_of(["unet.mid.0"])
    assert factors_of((("unet.*", 0.5), ("unet.mid", 0.25)), weights) == {"unet.mid.0": 0.5}


def test_a_path_that_the_base_does_not_have_is_found():
    weights = parts_of(["unet.up_blocks.1.attentions.0.proj_in", "text_encoder.layers.0.fc1"])

    assert unknown_path((("unet.up_blocks.1.*.0", 1.0), ("text_encoder", 1.0)), weights) is None
    assert unknown_path((("text_encoder", 1.0), ("unet.up_blocks.2", 1.0)), weights) == "unet.up_blocks.2"


def test_a_schedule_changes_the_strength_from_each_of_its_fractions_on():
    ref = an_adapter(scale=0.8, schedule=((0.25, 0.5), (0.75, 0.0)))

    scales = [strength_at(ref, progress).scale for progress in (0.0, 0.2, 0.25, 0.7, 0.75, 1.0)]
    assert scales == [0.8, 0.8, 0.4, 0.4, 0.0, 0.0]


def test_the_most_that_any_weight_gets_bounds_what_is_written():
    assert Strength(scale=-2.0, blocks=(("a", -3.0), ("b", 0.5))).most == 6.0
    assert Strength(scale=-2.0, blocks=(("b", 0.5),)).most == 2.0
