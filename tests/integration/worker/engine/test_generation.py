"""One job after another: each gives the picture that it would give alone."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler

from shared.errors import InvalidRequest
from tests import adapter_files as files
from tests.integration.worker.engine.conftest import open_engine, params, picture
from worker.engine.contract import BrokenImage, Interrupted
from worker.engine.diffusers_engine import DiffusersEngine


def test_equal_requests_give_equal_bytes_and_another_seed_another_picture(xl: DiffusersEngine) -> None:
    assert picture(xl) == picture(xl)
    assert picture(xl) != picture(xl, seed=8)


def test_what_a_request_leaves_open_is_decided_and_told(xl: DiffusersEngine) -> None:
    generated = xl.generate(params(steps=None), _stop_never)
    assert generated.image.size == (generated.width, generated.height) == (32, 32)
    assert generated.steps == 50
    assert generated.guidance_scale == 5.0
    assert generated.scheduler == "EulerDiscreteScheduler"


def test_what_a_request_asks_for_is_done(xl: DiffusersEngine) -> None:
    generated = xl.generate(
        params(width=48, height=16, steps=3, guidance_scale=0.0, scheduler="LCMScheduler"), _stop_never
    )
    assert generated.image.size == (48, 16)
    assert (generated.steps, generated.guidance_scale, generated.scheduler) == (3, 0.0, "LCMScheduler")


def test_steps_are_counted_as_they_really_are(xl: DiffusersEngine) -> None:
    steps: list[tuple[int, int]] = []
    xl.generate(params(steps=3, scheduler="HeunDiscreteScheduler"), lambda *step: steps.append(step))
    assert steps == [(number, 5) for number in range(1, 6)]


def test_one_jobs_scheduler_guidance_size_and_prompt_are_gone_for_the_next(xl: DiffusersEngine) -> None:
    before = picture(xl)
    picture(xl, scheduler="LCMScheduler", guidance_scale=0.0, width=16, negative_prompt="blue", prompt="x")
    assert picture(xl) == before


def test_an_interrupted_job_stops_at_once_and_leaves_nothing(xl: DiffusersEngine) -> None:
    before = picture(xl)
    steps = []

    def stop(done: int, total: int) -> None:
        steps.append(done)
        if done == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        xl.generate(params(steps=5), stop)
    assert steps == [1, 2]
    assert picture(xl) == before


def test_every_scheduler_that_is_offered_draws_the_same_picture_twice(xl: DiffusersEngine) -> None:
    names = xl._drawing._schedulers.names
    assert "PNDMScheduler" in names
    assert {"EulerDiscreteScheduler", "DDIMScheduler", "LCMScheduler", "TCDScheduler"} <= set(names)
    for name in names:
        assert picture(xl, scheduler=name, steps=5) == picture(xl, scheduler=name, steps=5), name


def test_a_scheduler_takes_the_spacing_that_is_asked_for_and_the_next_job_the_bases_own(
    xl: DiffusersEngine,
) -> None:
    usual = picture(xl, scheduler="DDIMScheduler", steps=4)
    trailing = picture(xl, scheduler="DDIMScheduler", steps=4, timestep_spacing="trailing")

    assert trailing != usual
    assert picture(xl, scheduler="DDIMScheduler", steps=4) == usual


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("parameters.width", {"width": 30}),
        ("parameters.height", {"height": 4}),
        ("parameters.width", {"width": 8 * 32 + 8}),
        ("parameters.scheduler", {"scheduler": "FlowMatchEulerDiscreteScheduler"}),
        ("parameters.scheduler", {"scheduler": "__class__"}),
        ("parameters.num_inference_steps", {"scheduler": "LCMScheduler", "steps": 60}),
    ],
)
def test_what_the_base_cannot_take_is_refused_by_name(
    xl: DiffusersEngine, field: str, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        xl.generate(params(**changes), _stop_never)
    assert refusal.value.field == field


@pytest.mark.parametrize(("scheduler", "steps"), [("LCMScheduler", 60), ("PNDMScheduler", 1)])
def test_steps_that_a_scheduler_cannot_make_are_refused_in_words_of_the_request(
    xl: DiffusersEngine, scheduler: str, steps: int
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        xl.generate(params(scheduler=scheduler, steps=steps), _stop_never)
    assert (
        refusal.value.problem
        == f"{scheduler} cannot make {steps} steps: ask for more or fewer, or for another scheduler"
    )


def test_an_unknown_schedulers_refusal_lists_those_that_there_are(xl: DiffusersEngine) -> None:
    with pytest.raises(InvalidRequest, match="DDIMScheduler"):
        xl.generate(params(scheduler="nothing"), _stop_never)


def test_a_prompt_beyond_the_tokenizers_limit_is_cut(xl: DiffusersEngine) -> None:
    long = "red " * 200
    assert picture(xl, prompt=long) == picture(xl, prompt=long + "blue")


def test_an_image_of_nan_is_an_error_and_no_black_picture(xl_folder: Path) -> None:
    engine = open_engine(xl_folder)
    engine._pipeline.vae.decoder.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(BrokenImage):
        picture(engine)


def test_the_bytes_are_those_of_diffusers_own_conversion(xl: DiffusersEngine) -> None:
    pipeline = xl._pipeline
    ours = xl.generate(params(scheduler="LCMScheduler"), _stop_never)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    theirs = pipeline(
        params().prompt, num_inference_steps=2, generator=torch.Generator("cpu").manual_seed(7)
    ).images[0]
    assert (np.asarray(ours.image) == np.asarray(theirs)).all()


def test_ingesting_beside_a_generation_changes_neither(xl: DiffusersEngine, tmp_path: Path) -> None:
    layers = files.random_layers(xl._pipeline, files.linears(xl._pipeline, "unet"))
    path = files.write(tmp_path / "a.safetensors", files.peft(layers))
    alone, digest = picture(xl, steps=6), xl.ingest(path).digest.result()
    with ThreadPoolExecutor(max_workers=1) as beside:
        ingests = [beside.submit(xl.ingest, path) for _ in range(10)]
        together = picture(xl, steps=6)
    assert together == alone
    assert {each.result().digest.result() for each in ingests} == {digest}
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sd_draws_too(sd: DiffusersEngine) -> None:
    assert picture(sd) == picture(sd)


def _stop_never(done: int, total: int) -> None:
    pass


def is_full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB")


def test_an_image_of_the_base_s_own_size_has_memory_or_the_worker_is_at_fault(
    xl: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(xl._pipeline.vae, "decode", is_full)
        with pytest.raises(torch.OutOfMemoryError):
            picture(xl)


def test_an_image_that_the_device_has_no_memory_for_is_refused_by_its_size(
    xl: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture(xl)
    with monkeypatch.context() as patch:
        patch.setattr(xl._pipeline.vae, "decode", is_full)
        with pytest.raises(InvalidRequest, match="64 x 32") as caught:
            picture(xl, width=64, height=32)
    assert caught.value.field == "parameters.width"
    assert "32 x 32" in caught.value.message
    assert caught.value.__context__ is None  # whose frames would hold what the drawing took
    assert picture(xl) == before
