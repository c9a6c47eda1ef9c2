import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.events.indenting import indented

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_looks_as_usual_and_says_the_same(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert indented(text, most=10**6) == json.dumps(value, ensure_ascii=False, indent=2)


def test_no_token_changes():
    text = '{"a":1.00,"a":1e400,"b":"\\u0041\\/","c":[ ]}'
    assert indented(text, most=1000) == '{\n  "a": 1.00,\n  "a": 1e400,\n  "b": "\\u0041\\/",\n  "c": []\n}'


@given(st.text())
def test_what_is_not_json_keeps_all_but_its_spaces(text):
    assert "".join(indented(text, most=10**6).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["[" * 100_000, '"\\' * 100_000, "{}" * 100_000, '{"a":' * 50_000])
def test_a_body_that_is_made_to_be_long_is_cut(text):
    assert len(indented(text, most=1000)) <= 1000
