"""Strengths of blocks and over the steps, against the pictures that plain diffusers gives for the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from router.fields import Fields
from router.strengths import read_strength
from shared.config import Limits
from shared.errors import InvalidRequest
from tests import adapter_files as files
from tests.integration.worker.engine.conftest import activation, params, picture
from worker.engine.contract import AdapterFault, Interrupted

STEPS = 4
TOLERANCE = 2
"""Of 255: one merges, the other computes beside the weights."""

# Blocks of the tiny base that have attentions: down 1, mid, up 0. The lists have one number for each layer.
PARTS = {
    "unet": {"down": {"block_1": [0.3, -0.5]}, "mid": 0.0, "up": {"block_0": 1.5}},
    "text_encoder": 0.5,
}


@pytest.fixture
def path(xl, tmp_path):
    """An adapter of the UNet and both text encoders."""
    ends = ("q_proj", "k_proj", "v_proj", "out_proj")
    targets = [
        *files.linears(xl._pipeline, "unet", ".to_q", ".to_k", ".to_v", ".to_out.0"),
        *files.linears(xl._pipeline, "text_encoder", *ends),
        *files.linears(xl._pipeline, "text_encoder_2", *ends),
    ]
    return files.write(tmp_path / "a.safetensors", files.peft(files.random_layers(xl._pipeline, targets)))


def wanted(adapter, **raw):
    """The activation for what a request says."""
    strength = read_strength(Fields(raw), "scale", "schedule", Limits())
    each = activation(adapter, 1.0 if strength.scale is None else strength.scale)
    return [replace(each, ref=replace(each.ref, blocks=strength.blocks, schedule=strength.schedule))]


def pixels(image):
    return np.asarray(image).astype(int)


def plain(reference, **options):
    return pixels(
        reference(
            params().prompt,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(params().seed),
            **options,
        ).images[0]
    )


def ours(engine):
    return pixels(engine.generate(params(steps=STEPS), lambda *_: None).image)


def test_parts_of_the_base_get_what_diffusers_gives_them(xl, reference, path):
    xl.activate(wanted(xl.ingest(path), scale=PARTS))
    reference.load_lora_weights(path.parent, weight_name=path.name, adapter_name="a")
    reference.set_adapters(["a"], [PARTS])

    found = ours(xl)
    assert np.abs(found - plain(reference)).max() <= TOLERANCE
    xl.activate(wanted(xl.ingest(path)))
    assert np.abs(found - ours(xl)).max() > TOLERANCE


def test_a_schedule_changes_the_strength_between_the_steps(xl, reference, path):
    schedule = [{"from": 0.0, "scale": 0.2}, {"from": 0.5, "scale": 1.0}, {"from": 0.75, "scale": 0.0}]
    reference.load_lora_weights(path.parent, weight_name=path.name, adapter_name="a")
    strengths = [0.2, 0.2, 1.0, 0.0]
    reference.set_adapters(["a"], [0.2])

    def at_step_end(pipeline, step, _time, values):
        pipeline.set_adapters(["a"], [strengths[min(step + 1, STEPS - 1)]])
        return values

    xl.activate(wanted(xl.ingest(path), schedule=schedule))
    assert np.abs(ours(xl) - plain(reference, callback_on_step_end=at_step_end)).max() <= TOLERANCE


def test_each_picture_begins_at_the_beginning_of_the_schedule(xl, path):
    xl.activate(wanted(xl.ingest(path), schedule=[{"from": 0.5, "scale": 0.0}]))

    first = picture(xl, steps=STEPS)
    assert picture(xl, steps=STEPS) == first


def test_nothing_of_a_schedule_is_left_for_the_next_job(xl, path):
    adapter = xl.ingest(path)
    xl.activate(wanted(adapter))
    steady = picture(xl, steps=STEPS)
    xl.activate([])
    bare = picture(xl, steps=STEPS)

    def leave(done, _total):
        if done == 3:
            raise Interrupted("cancelled")

    xl.activate(wanted(adapter, schedule=[{"from": 0.25, "scale": 0.5}]))
    with pytest.raises(Interrupted):
        xl.generate(params(steps=STEPS), leave)
    xl.activate(wanted(adapter))
    assert picture(xl, steps=STEPS) == steady
    xl.activate([])
    assert picture(xl, steps=STEPS) == bare


def test_a_refused_adapter_leaves_what_was_active_with_its_schedule(xl, path):
    adapter = xl.ingest(path)
    xl.activate(wanted(adapter, schedule=[{"from": 0.5, "scale": 0.25}]))
    before = picture(xl, steps=STEPS)
    with pytest.raises(InvalidRequest):
        xl.activate(wanted(adapter, scale={"transformer": 0.5}))
    assert picture(xl, steps=STEPS) == before


def test_a_part_that_the_base_does_not_have_is_refused_by_name(xl, path):
    with pytest.raises(InvalidRequest, match=r"the strength of .* names transformer") as refusal:
        xl.activate(wanted(xl.ingest(path), scale={"transformer": 0.5}))
    assert refusal.value.field == "parameters"


def test_strengths_that_could_leave_the_number_format_are_refused_wherever_they_hide(xl, path):
    adapter = replace(xl.ingest(path), reach=xl._swap._weights.headroom / 2)
    for raw in ({"schedule": [{"from": 0.9, "scale": 4}]}, {"scale": {"unet": {"mid": 4}}}):
        with pytest.raises(AdapterFault, match="number format"):
            xl.activate(wanted(adapter, **raw))
