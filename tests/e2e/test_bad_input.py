"""Whatever is asked for wrongly: a status, a message that helps, and the next picture as if nothing was."""

import base64
import io
import json
from dataclasses import dataclass

import pytest
from PIL import Image

ALICE, BOB = "hf_demo_alice", "hf_demo_bob"
BASES = ("warmbase/shapes-xl", "warmbase/shapes-sd")


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A model that cannot be drawn with. The message has to hold all of `words`."""

    model: str
    status: int
    words: tuple[str, ...]
    token: str | None = None


MODELS = [
    Bad(model="warmbase/no-such-thing", status=404, words=("warmbase/no-such-thing", "not found")),
    Bad(model="no-such-thing", status=422, words=("organisation/name",)),
    Bad(model="a/b/c", status=422, words=("organisation/name",)),
    Bad(model="../etc/passwd", status=422, words=("organisation/name",)),
    Bad(model="warmbase/gated-outline", status=403, words=("warmbase/gated-outline", "gated")),
    Bad(model="warmbase/gated-outline", status=403, words=("warmbase/gated-outline",), token=BOB),
    Bad(model="warmbase/private-outline", status=404, words=("not found, or private",)),
    Bad(model="warmbase/private-outline", status=404, words=("not found, or private",), token=BOB),
    Bad(model="broken/disabled", status=403, words=("disabled",)),
    Bad(model="broken/unserved-base", status=503, words=("stable-diffusion-xl-base-1.0", *BASES)),
    Bad(model="broken/llm-adapter", status=422, words=("broken/llm-adapter",)),
    Bad(model="broken/pickle-only", status=422, words=("safetensors",)),
    Bad(model="broken/no-base-model", status=422, words=("base",)),
    Bad(model="broken/nan-weights", status=422, words=("attn1.to_q",)),
    Bad(model="broken/wrong-shapes", status=422, words=("320",)),
    Bad(model="broken/truncated", status=422, words=("pytorch_lora_weights.safetensors",)),
    Bad(model="broken/wrong-keys", status=422, words=("single_transformer_blocks",)),
    Bad(model="broken/no-such-layer", status=422, words=("down_blocks.7",)),
]

PARAMETERS = [
    ({"width": 100_000}, "parameters.width"),
    ({"width": 0}, "parameters.width"),
    ({"height": 67}, "parameters.height"),
    ({"height": "64"}, "parameters.height"),
    ({"num_inference_steps": 0}, "parameters.num_inference_steps"),
    ({"num_inference_steps": 10_000}, "parameters.num_inference_steps"),
    ({"num_inference_steps": 2.5}, "parameters.num_inference_steps"),
    ({"guidance_scale": -1}, "parameters.guidance_scale"),
    ({"guidance_scale": "much"}, "parameters.guidance_scale"),
    ({"seed": 2**70}, "parameters.seed"),
    ({"seed": "one"}, "parameters.seed"),
    ({"seed": True}, "parameters.seed"),
    ({"negative_prompt": 3}, "parameters.negative_prompt"),
    ({"scheduler": "NoSuchScheduler"}, "parameters.scheduler"),
    ({"lora_scale": 1000}, "parameters.lora_scale"),
    ({"loras": "warmbase/stripes"}, "parameters.loras"),
    ({"loras": [{"model": "warmbase/stripes", "scale": 99}]}, "parameters.loras[0].scale"),
    ({"stepss": 5}, "parameters.stepss"),
]


def png():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()


def drawn_from(image, **parameters):
    return json.dumps({"inputs": base64.b64encode(image).decode(), "parameters": parameters}).encode()


PNG = png()

BODIES = [
    (b"", ""),
    (b"{", ""),
    (b"[]", ""),
    (b"\xff\xfe", ""),
    (b"{}", "inputs"),
    (b'{"inputs": 3}', "inputs"),
    (b'{"inputs": ""}', "inputs"),
    (b'{"inputs": "x", "parameters": []}', "parameters"),
    (b'{"inputs": "x", "colour": "red"}', "colour"),
    (b'{"inputs": "x", "parameters": {"guidance_scale": NaN}}', ""),
    (b"[" * 100_000, ""),
    (json.dumps({"inputs": "x" * 100_000}).encode(), "inputs"),
    (b"GIF89a", "inputs"),
    (PNG[:50], "inputs"),
    (PNG[:16] + b"\x7f\xff\xff\xff" + PNG[20:], "inputs"),
    (drawn_from(PNG[:50]), "inputs"),
    (drawn_from(PNG, strength=2), "parameters.strength"),
    (drawn_from(PNG, strength=0.01), "parameters.strength"),
    (drawn_from(PNG, width=20), "parameters.width"),
    (drawn_from(PNG, target_size={"width": 64}), "parameters.target_size.height"),
    (json.dumps({"inputs": "https://x/a.png", "parameters": {"prompt": "x"}}).encode(), "inputs"),
]


@pytest.fixture(scope="module")
def good(client):
    """Asks for the same picture again and again; it must never change."""
    first = client.draw("warmbase/outline").picture

    def check():
        assert client.draw("warmbase/outline").picture == first

    return check


def assert_refused(answer, status, *words):
    assert answer.status == status, answer.body[:500]
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-error-code"]
    for word in words:
        assert word in answer.error
    for trace in ("Traceback", "Error(", 'File "', "object at 0x"):
        assert trace not in answer.error


@pytest.mark.parametrize("bad", MODELS, ids=lambda bad: f"{bad.model}-{bad.token}")
def test_a_model_that_cannot_be_used_is_refused_by_name_and_leaves_no_trace(client, good, bad):
    assert_refused(client.draw(bad.model, token=bad.token), bad.status, *bad.words)
    good()


@pytest.mark.parametrize(("parameters", "field"), PARAMETERS, ids=str)
def test_a_parameter_that_is_wrong_is_named(client, good, parameters, field):
    answer = client.draw("warmbase/outline", **parameters)
    assert_refused(answer, 422, field)
    good()


@pytest.mark.parametrize(("body", "field"), BODIES, ids=lambda value: repr(value[:30]))
def test_a_body_that_is_wrong_is_explained(client, body, field):
    assert_refused(client.post("/models/warmbase/outline", body), 422, field)


def test_after_all_bad_bodies_the_picture_is_the_same(good):
    good()


def test_several_weight_files_are_listed_to_choose_from(client, good):
    answer = client.draw("warmbase/texture-pack")
    assert_refused(answer, 422, "dots.safetensors", "checker.safetensors", "parameters.weight_name")
    assert client.draw("warmbase/texture-pack", weight_name="dots.safetensors").picture
    assert_refused(
        client.draw("warmbase/texture-pack", weight_name="nope.safetensors"), 422, "dots.safetensors"
    )
    good()


@pytest.mark.parametrize("model", ["warmbase/gated-outline", "warmbase/private-outline"])
def test_what_a_token_opens_is_drawn_and_stays_closed_to_others(client, model):
    open_to_all = client.draw("warmbase/outline").picture
    assert client.draw(model, token=ALICE).picture != open_to_all
    assert client.draw(model).status in {403, 404}
    assert client.draw(model, token=BOB).status in {403, 404}


def test_adapters_of_different_bases_are_not_mixed(client, good):
    answer = client.draw("warmbase/outline", loras=[{"model": "warmbase/neon-sd"}])
    assert_refused(answer, 422, "warmbase/neon-sd", "parameters.loras[0]")
    good()


def test_a_broken_adapter_beside_a_good_one_is_refused(client, good):
    answer = client.draw("warmbase/outline", loras=[{"model": "broken/nan-weights"}])
    assert_refused(answer, 422, "broken/nan-weights")
    good()
