"""The nesting of JSON is bounded before anything recursive reads it, whatever its strings hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secpipeline.errors import AttestationError
from secpipeline.provenance.envelopes import MAX_DEPTH, parse_object

TEXTS = st.text(st.sampled_from('[]{}"\\/n\u00e9\u2028 '), max_size=12) | st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def nested(depth, text=""):
    """An object whose brackets go ``depth`` deep around one string."""
    return ('{"a":' + "[" * (depth - 1) + json.dumps(text) + "]" * (depth - 1) + "}").encode()


@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.booleans())
def test_any_object_of_honest_depth_reads_back(value, ascii_only):
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")) == value


@given(TEXTS, st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3))
def test_brackets_in_strings_do_not_count_and_all_others_do(text, depth):
    data = nested(depth, text)
    if depth <= MAX_DEPTH:
        parse_object(data)
    else:
        with pytest.raises(AttestationError, match="nested deeper"):
            parse_object(data)


@pytest.mark.parametrize("text", ["\\", '"', '\\"', '\\\\"[', "]" * 100, "[" * 100, '"' * 7 + "{" * 99])
def test_a_string_cannot_hide_what_follows_it(text):
    hidden = b'{"a":' + json.dumps(text).encode() + b',"b":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"
    with pytest.raises(AttestationError, match="nested deeper"):
        parse_object(hidden)


@pytest.mark.parametrize(
    "data", [b'{"a": "', b'{"a": "\\', b'\\"{"a": 1}', b'{"a": 1\\"}', b'\xef\xbb\xbf{"a": 1}', b""]
)
def test_what_is_no_json_is_refused(data):
    with pytest.raises(AttestationError, match="malformed"):
        parse_object(data)


@pytest.mark.parametrize("data", [b'{"a": 1, "a": 1}', b'{"a": {"b": 1, "b": 2}}', b'{"a": NaN}', b'{"a": -Infinity}'])
def test_json_that_can_be_read_two_ways_is_refused(data):
    with pytest.raises(AttestationError, match="malformed"):
        parse_object(data)
