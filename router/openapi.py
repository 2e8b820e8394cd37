"""The interface for programs (OpenAPI 3.1), kept by hand and checked against the routes by a test."""

from typing import Any

from router.schemas import ADAPTER_HEADER

_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer"}


def _object(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": _TEXT}


def _optional(place: str, name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": _TEXT}


def _get(summary: str, answer: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    operation = {"summary": summary, "responses": {"200": answer, "default": _PROBLEM}}
    return {**operation, "parameters": list(parameters)} if parameters else operation


_PROBLEM = {"$ref": "#/components/responses/Problem"}
_JOB = _json("The job.", {"$ref": "#/components/schemas/Job"})
_MODEL_PATH = _path("model", "organisation/name of an adapter or a base on the Hub.")
_JOB_PATH = _path("job", "The job's id.")

_HEADERS = [
    _optional("header", "Prefer", "respond-async: answer at once with a job."),
    _optional("header", "Idempotency-Key", "The same request under the same key is drawn once."),
    _optional("header", "Priority", "RFC 9218: from u=4 on, others go first."),
    _optional("header", ADAPTER_HEADER, "An adapter, where the path names a base."),
]

_STRENGTH = {
    "oneOf": [_NUMBER, {"type": "object"}],
    "description": "A number, or factors for parts of the base, as in diffusers' set_adapters.",
}
_SCHEDULE = {
    "type": "array",
    "items": _object({"from": _NUMBER, "scale": _NUMBER}, ("from", "scale")),
    "description": "Factors of the strength, each from a fraction of the steps on.",
}

_ADAPTER = _object(
    {
        "model": {**_TEXT, "description": "Also spelled path, id or name."},
        "scale": _STRENGTH,
        "schedule": _SCHEDULE,
        "weight_name": _TEXT,
        "revision": _TEXT,
    },
    ("model",),
)

_PARAMETERS = _object(
    {
        "prompt": {**_TEXT, "description": "Where inputs is an image."},
        "strength": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "How much of the image is drawn anew.",
        },
        "negative_prompt": _TEXT,
        "width": _COUNT,
        "height": _COUNT,
        "target_size": _object({"width": _COUNT, "height": _COUNT}, ("width", "height")),
        "num_inference_steps": _COUNT,
        "guidance_scale": _NUMBER,
        "seed": {**_COUNT, "description": "-1 or none: the router picks one and says which."},
        "scheduler": {**_TEXT, "description": "Class name of a diffusers scheduler."},
        "lora_scale": _STRENGTH,
        "lora_schedule": _SCHEDULE,
        "weight_name": {**_TEXT, "description": "Weight file of the path's adapter."},
        "revision": {**_TEXT, "description": "Branch, tag or commit of the path's model."},
        "loras": {"type": "array", "items": _ADAPTER, "description": "More adapters on the same base."},
        "adapter_id": {**_TEXT, "description": "An adapter, where the path names a base."},
        "num_images": {"const": 1},
    }
)

_INPUTS = {**_TEXT, "description": "The prompt; or an image to start from, in base64 or as a data: URL."}

_REQUEST = _object({"inputs": _INPUTS, "parameters": _PARAMETERS, "options": _object({})}, ("inputs",))

_BINARY = {
    media: {"schema": {"type": "string", "format": "binary"}}
    for media in ("image/png", "image/jpeg", "image/webp")
}

_IMAGE = {
    "description": "The image. Headers tell what really ran: X-Warmbase-Adapters, X-Warmbase-Seed, ...",
    "content": _BINARY,
}

_GENERATE = {
    "summary": "Draw an image, from noise or from another one",
    "parameters": [_MODEL_PATH, *_HEADERS],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _REQUEST}, "text/plain": {"schema": _TEXT}, **_BINARY},
    },
    "responses": {
        "200": {
            **_IMAGE,
            "content": {
                **_IMAGE["content"],  # type: ignore[dict-item]
                "application/json": {"schema": _object({"data": {"type": "array"}, "seed": _COUNT})},
            },
        },
        "202": {**_JOB, "description": "With 'Prefer: respond-async': the job that was enqueued."},
        "default": _PROBLEM,
    },
}

_SCHEMAS = {
    "Problem": _object(
        {
            "error": {**_TEXT, "description": "What was wrong and what to do."},
            "error_type": {**_TEXT, "description": "Stable code, also in X-Error-Code."},
            "field": {**_TEXT, "description": "Path of the field, such as parameters.width."},
            "choices": {"type": "array", "items": _TEXT},
        },
        ("error", "error_type"),
    ),
    "Job": _object(
        {
            "id": _TEXT,
            "status": {"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
            "progress": _object(
                {"step": {"type": ["integer", "null"]}, "total": {"type": ["integer", "null"]}}
            ),
            "timings": {"type": ["object", "null"]},
            "result": {"type": ["object", "null"], "description": "The headers of the image."},
            "error": {"type": ["object", "null"]},
        },
        ("id", "status"),
    ),
}

_ANY = _object({})

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Warmbase",
        "version": "1",
        "description": "Images from hundreds of LoRA adapters on a few warm base models.",
    },
    "paths": {
        "/": {"get": _get("Where things are", _json("Links.", _ANY))},
        "/health": {"get": _get("The process is alive", _json("Alive.", _ANY))},
        "/ready": {"get": _get("Requests can be taken", _json("Ready.", _ANY))},
        "/info": {"get": _get("Version, bases that run, limits", _json("Facts.", _ANY))},
        "/metrics": {
            "get": _get("Prometheus metrics", {"description": "Text.", "content": {"text/plain": {}}})
        },
        "/openapi.json": {"get": _get("This document", _json("OpenAPI.", _ANY))},
        "/models/{model}": {
            "post": _GENERATE,
            "get": _get(
                "What an id is, and why",
                _json("Classification.", _ANY),
                _MODEL_PATH,
                _optional("query", "revision", "Branch, tag or commit."),
            ),
        },
        "/jobs/{job}": {
            "get": _get("A job's status", _JOB, _JOB_PATH),
            "delete": {**_get("Cancel a job", _JOB, _JOB_PATH), "operationId": "cancel"},
        },
        "/jobs/{job}/image": {"get": _get("A job's image", _IMAGE, _JOB_PATH)},
    },
    "components": {
        "schemas": _SCHEMAS,
        "responses": {"Problem": _json("An error.", {"$ref": "#/components/schemas/Problem"})},
        "securitySchemes": {
            "hub": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of the Hub, for adapters that only its owner may read.",
            }
        },
    },
    "security": [{}, {"hub": []}],
}
