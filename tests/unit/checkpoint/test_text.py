import math
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprune.checkpoint.entry import Entry, number
from fprune.checkpoint.text import DEPTH, DIGITS, LIMIT, SPARSE, dumps, loads
from fprune.errors import CheckpointError

VALUES = LIMIT // SPARSE

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_is_written_is_read_back_with_its_types(value):
    back = loads(dumps(value, "a.json"), "a.json").value
    assert repr(back) == repr(sorted_keys(value))


@given(st.dictionaries(texts, st.integers(), max_size=6), st.randoms())
def test_equal_values_have_equal_bytes(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert dumps(dict(items), "a.json") == dumps(value, "a.json")


def sorted_keys(value):
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def test_indented_text_holds_the_same():
    value = {"b": [1, {"c": ()}], "a": -0.0}
    data = dumps(value, "a.json", indent=1)
    assert b"\n" in data
    assert repr(loads(data, "a.json").value) == "{'a': -0.0, 'b': [1, {'c': []}]}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, -0.0, 5e-324, 3, 10**30])
def test_numbers_come_back_bit_for_bit_even_if_json_has_no_form_for_them(value):
    back = loads(dumps([number(value)], "a.json"), "a.json").each(Entry.number)
    assert repr(back) == repr((value,))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": [0.5, math.nan]}, "a.json, a[1]: nan has no form in JSON"),
        ({"a": {"b": math.inf}}, "a.json, a.b: inf has no form"),
        ({"a": {1: 2}}, "a.json, a: the key 1 is no text"),
        ({"a": {None: 2}}, "the key None is no text"),
        ({"a": {1, 2}}, "a.json, a: set has no form"),
        (b"bytes", "a.json: bytes has no form"),
        ("\ud800", "surrogates not allowed"),
        ({"\udfff": 1}, "surrogates not allowed"),
        ([10**DIGITS], "cannot be written"),
    ],
)
def test_what_json_has_no_form_for_is_refused_when_written(value, reason):
    with pytest.raises(CheckpointError) as caught:
        dumps(value, "a.json")
    assert reason in caught.value.message
    assert "plain" in caught.value.hint or "finite numbers" in caught.value.hint


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def test_nothing_is_written_that_would_not_be_read():
    assert loads(dumps(nested(DEPTH), "a.json"), "a.json").value == nested(DEPTH)
    for value in (nested(DEPTH + 1), nested(5000), [0] * (VALUES + 1)):
        with pytest.raises(CheckpointError, match=r"nested deeper than 64|more than 1048576 values"):
            dumps(value, "a.json")
    with pytest.raises(CheckpointError, match=r"10 bytes of JSON, expected at most 9"):
        dumps("x" * 8, "a.json", limit=9)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": 1}\0', "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'"\n"', "not JSON"),
        (b'"\\', "not JSON"),
        (b"]" * 9 + b"[", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8: byte 0xff at 0"),
        (b'{"\xff": 1}', "not UTF-8: byte 0xff at 2"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\\ud800"', "half a character"),
        (b'{"a": ["\\uDFff"]}', "half a character"),
        (b"NaN", "NaN is no JSON"),
        (b"[-Infinity]", "-Infinity is no JSON"),
        (b"1e999", "1e999 is beyond the range"),
        (b"-1e999", "beyond the range"),
        (b'{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        (b'{"x": {"b": 1, "a": 1, "b": null}}', "the key 'b' occurs twice"),
        (b'{"a": 1, "\\u0061": 1}', "the key 'a' occurs twice"),
        (b"1" * (DIGITS + 1), f"a number of {DIGITS + 1} characters"),
        (b"0." + b"1" * DIGITS, f"a number of {DIGITS + 2} characters"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
        (b"[" * 10_000_000, "more than 1048576 values"),
    ],
)
def test_what_is_not_strict_json_is_refused(data, reason):
    with pytest.raises(CheckpointError) as caught:
        loads(data, "it-000003/manifest.json")
    assert caught.value.message.startswith("it-000003/manifest.json: ")
    assert reason in caught.value.message
    assert len(caught.value.message) < 300


def test_brackets_and_commas_within_texts_do_not_count():
    for text in ("[" * 1000, "," * (VALUES + 1), '\\"' + "[" * 99, "\\" * 31 + "[" * 99):
        assert loads(dumps([text], "a.json"), "a.json").value == [text]
    assert loads(b'["\\ud83d\\ude00"]', "a.json").value == ["\U0001f600"]


def test_an_int_of_the_greatest_length_is_read_whatever_python_is_set_to():
    assert loads(b"1" * DIGITS, "a.json").integer() == int("1" * DIGITS)
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(CheckpointError, match=r"a number of 4301"):
            loads(b"1" * (DIGITS + 1), "a.json")
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("unit", [b"[],", b'"",', b'"\\\\', b"1,", b"{", b'{"a":1},', b"\\", b" ", b"9"])
def test_the_largest_text_costs_bounded_time(unit):
    data = b"[" + unit * ((LIMIT - 1) // len(unit))
    begin = time.process_time()
    with pytest.raises(CheckpointError):
        loads(data, "a.json")
    assert time.process_time() - begin < 3
    with pytest.raises(CheckpointError, match=r"bytes of JSON, expected at most 16777216"):
        loads(data + b" " * LIMIT, "a.json")
