import json

import pytest

from deploy.local_hub.documents import count_parameters, parse_card, parse_object


def test_the_front_matter_of_a_card_is_its_data():
    card = parse_card(b"---\nlicense: mit\ntags: [lora]\n---\n# Crayon\n---\nnot: this\n---\n")

    assert card == {"license": "mit", "tags": ["lora"]}


@pytest.mark.parametrize(
    "content",
    [b"", b"# Crayon\n", b"---\n: [\n---\n", b"---\n- a list\n---\n", b"---\nnever: closed\n", b"---\n---\n"],
)
def test_a_card_without_data_has_none(content):
    assert parse_card(content) is None


def test_line_ends_of_other_systems_and_a_byte_order_mark_are_accepted():
    assert parse_card("\ufeff---\r\nlicense: mit\r\n---\r\ntext".encode()) == {"license": "mit"}


def test_bytes_that_are_no_text_spoil_only_their_place():
    assert parse_card(b"---\nlicense: mit\n---\n\xff\xfe") == {"license": "mit"}


def test_values_that_json_lacks_are_written_as_text():
    card = parse_card(
        b"---\ndate: 2024-01-02\nscore: .nan\n1: one\nset: !!set {a}\ndeep: [{at: 2024-01-02}]\n---\n"
    )

    assert card is not None
    assert json.loads(json.dumps(card, allow_nan=False)) == {
        "date": "2024-01-02",
        "score": None,
        "1": "one",
        "set": "{'a'}",
        "deep": [{"at": "2024-01-02"}],
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_json_object_is_none(content):
    assert parse_object(content) is None


def test_parameters_are_counted_by_type():
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b": {"dtype": "F16", "shape": [], "data_offsets": [12, 14]},
        "c": {"dtype": "F32", "shape": [4], "data_offsets": [14, 30]},
    }

    assert count_parameters(json.dumps(header).encode()) == {"F16": 7, "F32": 4}


@pytest.mark.parametrize("header", [b"", b'{"a": 1}', b'{"a": {"dtype": "F16", "shape": ["x"]}}'])
def test_a_broken_header_counts_nothing(header):
    assert count_parameters(header) is None
