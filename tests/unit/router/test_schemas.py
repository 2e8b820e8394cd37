import base64
import hashlib
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from router.body import MOST_VALUES, SourcePicture
from router.fields import MAX_FIELDS
from router.schemas import GenerationRequest, WantedAdapter, parse_request
from router.strengths import WantedStrength
from shared.config import Limits
from shared.errors import InvalidRequest
from shared.jobs import MAX_SEED, ImageFormat

MODEL = "nerijs/pixel-art-xl"
LIMITS = Limits()
PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(20)


def parse(body, model=MODEL, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_request(model, data, CIMultiDict(names), LIMITS)


def with_parameters(**parameters):
    return parse({"inputs": "a cat", "parameters": parameters})


def refusal(body, **headers):
    with pytest.raises(InvalidRequest) as caught:
        parse(body, **headers)
    return caught.value


def test_every_parameter_is_read():
    request = with_parameters(
        negative_prompt="ugly",
        width=512,
        height=768,
        num_inference_steps=12,
        guidance_scale=0,
        seed=7,
        scheduler="LCMScheduler",
        lora_scale=0.8,
        weight_name="a.safetensors",
        revision="main",
        num_images=1,
    )

    assert request == GenerationRequest(
        model=MODEL,
        revision="main",
        strength=WantedStrength(scale=0.8),
        weight_name="a.safetensors",
        prompt="a cat",
        negative_prompt="ugly",
        width=512,
        height=768,
        steps=12,
        guidance_scale=0,
        seed=7,
        scheduler="LCMScheduler",
        form=request.form,
    )


@pytest.mark.parametrize("body", [b"7", b"true", b"null", b"a cat", b""])
def test_what_says_it_is_json_has_to_be_an_object_or_a_string(body):
    assert refusal(body, Content_Type="application/json").field == "body"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"inputs": "a cat"}', "application/json"),
        (b'\xef\xbb\xbf{"inputs": "a cat"}', "application/json"),
        (b'{"inputs": "a cat"}', "application/x-www-form-urlencoded"),
        (b'{"inputs": "a cat", "parameters": null, "options": null}', "application/json; charset=utf-8"),
        (b'"a cat"', "application/json"),
        (b'"a cat"', ""),
        (b"a cat", "text/plain"),
        (b"a cat", ""),
        (b"a cat", "application/octet-stream"),
    ],
)
def test_a_prompt_comes_in_several_forms(body, content_type):
    assert parse(body, Content_Type=content_type).prompt == "a cat"


def test_text_that_says_it_is_text_may_look_like_json():
    assert parse(b'{"a": 1}', Content_Type="text/plain").prompt == '{"a": 1}'


@pytest.mark.parametrize("data", [PIXEL, b"\xff\xd8\xff\xe0 jpeg", b"RIFF\x10\0\0\0WEBPVP8 "])
def test_an_image_comes_in_several_forms(data):
    text = base64.b64encode(data).decode()
    for body, content_type in [
        (data, "image/png"),
        (data, ""),
        (data, "application/octet-stream"),
        (text.encode(), "text/plain"),
        (json.dumps(text).encode(), "application/json"),
        ({"inputs": text}, "application/json"),
        ({"inputs": text, "parameters": {"guidance_scale": 3}}, "application/json"),
        ({"inputs": f"data:image/png;base64,{text}"}, ""),
        ({"inputs": f"{text[:20]}\n{text[20:]}\n"}, "application/x-www-form-urlencoded"),
    ]:
        request = parse(body, Content_Type=content_type)
        assert request.source == SourcePicture(data=data, digest=hashlib.sha256(data).hexdigest())
        assert request.prompt == ""


def test_the_prompt_of_an_image_is_a_parameter():
    text = base64.b64encode(PIXEL).decode()
    parameters = {"prompt": "a cat", "strength": 0.6, "target_size": {"width": 64, "height": 32}}
    request = parse({"inputs": text, "parameters": parameters})

    assert (request.prompt, request.source_strength) == ("a cat", 0.6)
    assert (request.width, request.height) == (64, 32)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"inputs": "a cat", "parameters": {"prompt": "a dog"}}, "inputs", "no PNG, JPEG or WebP"),
        ({"inputs": "https://x/a.png", "parameters": {"prompt": "a dog"}}, "inputs", "no address is fetched"),
        ({"inputs": "iVBORw0KGgo!"}, "inputs", "in base64"),
        ({"inputs": "data:image/png,%89PNG"}, "inputs", "';base64'"),
        ({"inputs": "data:image/svg+xml;base64,PHN2Zz4="}, "inputs", "no PNG, JPEG or WebP"),
        ({"inputs": base64.b64encode(b"GIF89a").decode()}, "inputs", "no PNG, JPEG or WebP"),
        (b"GIF89a", "inputs", "no PNG, JPEG or WebP"),
        (b"II*\0 a TIFF", "inputs", "no PNG, JPEG or WebP"),
        ({"inputs": "a cat", "parameters": {"strength": 0.5}}, "parameters.strength", "lora_scale"),
        (
            {"inputs": "iVBORw0KGgo=", "parameters": {"strength": 1.5}},
            "parameters.strength",
            "between 0 and 1",
        ),
        ({"parameters": {"prompt": "a cat"}}, "inputs", "is missing"),
        ({"inputs": ["iVBORw0KGgo="]}, "inputs", "has to be a string"),
    ],
)
def test_what_is_wrong_with_an_image_is_told(body, field, message):
    error = refusal(body)

    assert error.field == field
    assert message in error.message


@pytest.mark.parametrize(
    "form", [lambda data: data, lambda data: {"inputs": base64.b64encode(data).decode()}]
)
def test_an_image_has_a_largest_size(form):
    data = PIXEL + bytes(LIMITS.max_source_bytes - len(PIXEL))

    assert parse(form(data)).source.data == data
    error = refusal(form(data + b"x"))
    assert error.field == "inputs"
    assert f"at most {LIMITS.max_source_bytes} bytes" in error.message


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "data:;base64,", " DATA:application/octet-stream;Base64,"]
)
@pytest.mark.parametrize("parameters", [{}, {"prompt": "a cat"}])
def test_an_image_may_be_in_a_data_url_of_any_type(head, parameters):
    request = parse({"inputs": head + base64.b64encode(PIXEL).decode() + "\n", "parameters": parameters})

    assert request.source.data == PIXEL


def test_an_image_may_stand_behind_an_empty_line():
    assert parse({"inputs": "\n" + base64.b64encode(PIXEL).decode()}).source.data == PIXEL


@pytest.mark.parametrize("start", [b"BM", b"\0\0\1\0", b"\0\0\0 ftypavif"])
@pytest.mark.parametrize("length", [46, 47, 48, 100_000])
def test_an_image_of_another_kind_is_not_drawn_as_a_prompt(start, length):
    error = refusal({"inputs": base64.b64encode(start.ljust(length, b"\1")).decode()})

    assert error.message == "inputs: is no PNG, JPEG or WebP image"


@pytest.mark.parametrize(
    "prompt",
    [
        "BMW on a road",
        "RIFF of a guitar",
        "data: a chart of it",
        "data:points",
        "a" * 60,
        "a" * 65,
        "b c" * 64,
    ],
)
def test_a_prompt_may_begin_as_some_files_do(prompt):
    assert parse(prompt.encode()).prompt == parse({"inputs": prompt}).prompt == prompt


def test_a_form_is_refused():
    assert "a form is not taken" in refusal(PIXEL, Content_Type="multipart/form-data; boundary=x").message


def test_null_counts_as_absent():
    names = (
        "negative_prompt",
        "width",
        "height",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "scheduler",
    )
    more = ("lora_scale", "weight_name", "revision", "loras", "adapter_id", "target_size", "num_images")
    assert with_parameters(**dict.fromkeys((*names, *more))) == with_parameters()


def test_minus_one_is_a_random_seed_as_is_none():
    assert with_parameters(seed=-1).seed is None
    assert with_parameters().seed is None
    assert with_parameters(seed=0).seed == 0
    assert with_parameters(seed=MAX_SEED).seed == MAX_SEED


def test_a_whole_number_may_be_written_as_a_float():
    assert with_parameters(width=512.0).width == 512


def test_target_size_is_another_spelling_of_width_and_height():
    request = with_parameters(target_size={"width": 512, "height": 256})
    assert (request.width, request.height) == (512, 256)


def test_legacy_options_are_let_pass():
    body = {"inputs": "a cat", "options": {"wait_for_model": True, "use_cache": False}}
    assert parse(body) == parse({"inputs": "a cat"})


@pytest.mark.parametrize("name", ["model", "path", "id", "name"])
@pytest.mark.parametrize("scale", ["scale", "weight", "strength"])
def test_further_adapters_have_several_spellings(name, scale):
    request = with_parameters(
        loras=[{name: "a/b", scale: -0.5, "weight_name": "x.safetensors", "revision": "v1"}]
    )
    assert request.adapters == (
        WantedAdapter(
            field=f"parameters.loras[0].{name}",
            repo="a/b",
            strength=WantedStrength(scale=-0.5),
            weight_name="x.safetensors",
            revision="v1",
        ),
    )


def test_an_adapter_of_strength_zero_is_not_one_of_strength_one():
    assert with_parameters(loras=[{"model": "a/b", "scale": 0}]).adapters[0].strength.scale == 0.0
    assert with_parameters(lora_scale=0).strength.scale == 0.0


def test_adapter_id_names_an_adapter_that_the_single_scale_and_file_are_about():
    request = with_parameters(adapter_id="a/b", lora_scale=0.5, weight_name="x.safetensors")
    assert request.adapters == (
        WantedAdapter(
            field="parameters.adapter_id",
            repo="a/b",
            strength=WantedStrength(scale=0.5),
            weight_name="x.safetensors",
        ),
    )
    assert (request.strength, request.weight_name) == (WantedStrength(), None)


def test_the_header_of_the_old_service_names_an_adapter():
    assert parse({"inputs": "a cat"}, lora="a/b").adapters == (WantedAdapter(field="lora", repo="a/b"),)


def test_accept_and_prefer_are_read():
    request = parse({"inputs": "a cat"}, Accept="image/webp", Prefer="respond-async, wait=1")
    assert request.form.image_format is ImageFormat.WEBP
    assert request.respond_async


def test_accept_and_prefer_may_stand_in_several_lines():
    headers = CIMultiDict([("Prefer", "wait=5"), ("Accept", "text/html"), ("Accept", "image/webp")])
    headers.add("Prefer", "Respond-Async; foo")
    request = parse_request(MODEL, b"a cat", headers, LIMITS)

    assert request.form.image_format is ImageFormat.WEBP
    assert request.respond_async


@pytest.mark.parametrize("prefer", ["wait=1", "respond-asynchronously", 'foo="not respond-async"', ""])
def test_who_does_not_prefer_the_job_waits_for_the_image(prefer):
    assert not parse({"inputs": "a cat"}, Prefer=prefer).respond_async


REFUSED = {
    "inputs": [
        {},
        {"inputs": None},
        {"inputs": ["a"]},
        {"inputs": ""},
        {"inputs": " "},
        {"inputs": "x" * 4001},
    ],
    "body": [
        [],
        b"{",
        b'{"inputs": "a"',
        b"[" * 100_000,
        b"\xff\xfe\xfa",
        b'{"a": %s}' % (b"9" * 5000),
        b'{"inputs": "a", "parameters": [%s]}' % (b"0," * MOST_VALUES),
        json.dumps({"inputs": "a"} | {f"field {number}": 1 for number in range(MAX_FIELDS)}).encode(),
        json.dumps({"inputs": "a", "x" * 1000: 1}).encode(),
        {"inputs": "a", "\ud800": 1},
    ],
    "input": [{"inputs": "a", "input": "b"}],
    "parameters": [
        {"inputs": "a", "parameters": []},
        {"inputs": "a", "parameters": {"x" * 1000: 1}},
        {"inputs": "a", "parameters": dict.fromkeys(map(str, range(MAX_FIELDS + 1)), None)},
    ],
    "options": [{"inputs": "a", "options": "x"}],
    "options.cache": [{"inputs": "a", "options": {"cache": True}}],
    "parameters.widht": [{"inputs": "a", "parameters": {"widht": 1}}],
}


@pytest.mark.parametrize(
    ("field", "body"), [(field, body) for field, bodies in REFUSED.items() for body in bodies]
)
def test_a_wrong_body_is_refused_by_field(field, body):
    error = refusal(body)
    assert error.field == field
    assert len(error.message) < 300


PARAMETERS = {
    "width": ["512", True, 0, 7, 2049, 512.5, -1, 1e400, [1]],
    "height": ["512", 0, 2049],
    "num_inference_steps": [0, 151, "4", 4.5],
    "guidance_scale": [-0.1, 50.1, "7", 1e400],
    "seed": [-2, 2**63, "1", 1.5],
    "scheduler": [7, "", "os.system", "a b", "x" * 300],
    "negative_prompt": [7, "x" * 4001, "\ud800"],
    "lora_scale": [4.1, -4.1, "1"],
    "weight_name": ["", 7, "x" * 256],
    "revision": ["", 7],
    "num_images": [0, 2, "1"],
    "adapter_id": ["x", 7],
    "loras": [{}, "a/b", [{"model": "a/b"}] * 9],
    "loras[0]": [["a/b"], [None]],
    "loras[0].model": [[{}], [{"model": "x"}], [{"model": 7}]],
    "loras[0].path": [[{"model": "a/b", "path": "a/b"}]],
    "loras[0].weight": [[{"model": "a/b", "scale": 1, "weight": 1}]],
    "loras[1].scale": [[{"model": "a/b"}, {"model": "a/c", "scale": 5}]],
    "loras[0].sclae": [[{"model": "a/b", "sclae": 1}]],
    "target_size": [7],
    "target_size.width": [{}, {"width": 1, "height": 64}],
    "target_size.height": [{"width": 64}],
    "target_size.depth": [{"width": 64, "height": 64, "depth": 1}],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in PARAMETERS.items() for value in values]
)
def test_a_wrong_parameter_is_refused_by_its_path(field, value):
    name = field.partition("[")[0].partition(".")[0]
    body = json.dumps({"inputs": "a", "parameters": {name: value}}).encode()
    assert refusal(body).field == f"parameters.{field}"


def test_size_is_said_once():
    error = refusal({"inputs": "a", "parameters": {"width": 64, "target_size": {"width": 64, "height": 64}}})
    assert error.field == "parameters.width"


def test_adapter_is_named_once():
    assert (
        refusal({"inputs": "a", "parameters": {"adapter_id": "a/b"}}, lora="a/b").field
        == "parameters.adapter_id"
    )


@pytest.mark.parametrize("model", ["x", "a/b/c", "a/..", "-a/b", "a/b.git", "a/b c", ""])
def test_an_id_that_cannot_exist_is_refused(model):
    with pytest.raises(InvalidRequest) as caught:
        parse(b"a cat", model=model)
    assert caught.value.field == "model"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
KNOWN = sorted({field.partition("[")[0].partition(".")[0] for field in PARAMETERS})
LORA = st.dictionaries(st.sampled_from(["model", "path", "scale", "weight", "weight_name", "x"]), JSON)


@given(
    st.dictionaries(st.sampled_from(["inputs", "parameters", "options", "x"]), JSON)
    | st.fixed_dictionaries(
        {
            "inputs": st.text(max_size=10),
            "parameters": st.dictionaries(st.sampled_from(KNOWN), JSON | st.lists(LORA, max_size=2)),
        }
    )
)
def test_any_json_is_a_request_or_an_invalid_one(body):
    with suppress(InvalidRequest):
        request = parse(json.dumps(body).encode())
        assert request.width is None or 8 <= request.width <= LIMITS.max_side
        assert request.seed is None or 0 <= request.seed <= MAX_SEED


@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "text/plain", "image/png", "x"]))
def test_any_bytes_are_a_request_or_an_invalid_one(body, content_type):
    with suppress(InvalidRequest):
        request = parse(body, Content_Type=content_type)
        assert request.prompt.strip() or request.source
