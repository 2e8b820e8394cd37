"""Which headers mean the same."""

import pytest

from worker.engine.layouts import header_key

COMPONENTS = ("unet",)


def header(fields: str, first: str = "a", dtype: str = "dtype") -> bytes:
    """Return a header of two tensors, whose formats come last."""
    tensors = ",".join(
        f'"{key}":{{"shape":[1],"data_offsets":[{start},{start + 4}],"{dtype}":"F32"}}'
        for key, start in ((first, 0), ("b", 4))
    )
    return f'{{"__metadata__":{fields},{tensors}}}'.encode()


def key(text: bytes) -> bytes:
    return header_key(text, COMPONENTS)


@pytest.mark.parametrize(
    "fields",
    [
        '{"format":"pt"}',
        '{"format":"pt","title":"a \\"},\\" in it"}',
        '{"format":"pt","dtype":"F32"}',
        '{"format":"pt","title":"\\u0041"}',
        '{"lora_adapter_metadata":""}',
    ],
)
def test_text_fields_mean_nothing(fields: str) -> None:
    assert key(header(fields)) == key(header('{"x":"y"}'))
    assert key(header(fields) + b"   ") == key(header(fields))


@pytest.mark.parametrize(
    "fields",
    ["{}", "{ }", '{"a":"b" }', '{"a":"b"}', '{"a":"},"}', '{"a":1}', "[]", '"x"', '{"a":{"b":"c"}}'],
)
@pytest.mark.parametrize("dtype", ["dtype", "dt\\u0079pe"])
def test_every_tensor_counts_however_a_header_is_written(fields: str, dtype: str) -> None:
    assert key(header(fields, "a", dtype)) != key(header(fields, "c", dtype))


def test_a_config_counts_by_what_it_means() -> None:
    def with_config(config: str) -> bytes:
        escaped = config.replace('"', '\\"')
        return key(header(f'{{"lora_adapter_metadata":"{escaped}"}}'))

    four = with_config('{"unet.r": 4, "unet.target_modules": ["a"]}')
    assert four == with_config('{"unet.target_modules": ["b", "a"], "unet.r": 4}')
    assert four != with_config('{"unet.r": 8}')
    assert four != with_config("{}")
    assert with_config("{") != with_config("[")
