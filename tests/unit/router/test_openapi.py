import re

from multidict import CIMultiDict
from openapi_spec_validator import validate

from router.app import create_app
from router.openapi import DOCUMENT
from router.schemas import ADAPTER_HEADER, parse_request
from shared.config import Limits, router_config


def test_the_document_is_valid():
    validate(DOCUMENT)


def test_the_document_names_every_route_and_no_other():
    app = create_app(router_config({}))
    served = {
        (re.sub(r":[^}]*}", "}", route.resource.canonical), route.method.lower())
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}

    assert described == served


def test_every_parameter_of_the_document_is_known_to_the_schema():
    values = {
        "target_size": '{"width": 64, "height": 64}',
        "loras": "[]",
        "lora_schedule": "[]",
        "adapter_id": '"a/b"',
        "scheduler": '"X"',
        "prompt": '""',
        "negative_prompt": '"x"',
        "weight_name": '"x"',
        "revision": '"x"',
        "width": "64",
        "height": "64",
    }
    schema = DOCUMENT["paths"]["/models/{model}"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    for name in schema["properties"]["parameters"]["properties"]:
        inputs, prompt = ("iVBORw0KGgo=", "") if name in {"prompt", "strength"} else ("a", "a")
        body = f'{{"inputs": "{inputs}", "parameters": {{"{name}": {values.get(name, 1)}}}}}'
        assert (
            parse_request("a/b", body.encode(), CIMultiDict({ADAPTER_HEADER: ""}), Limits()).prompt == prompt
        )
