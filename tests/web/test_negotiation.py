import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.negotiation import accepts_json, is_json


@pytest.mark.parametrize(
    "accept",
    [
        b"",
        b" ",
        b",",
        b"application/json",
        b"APPLICATION/JSON",
        b"application/*",
        b"*/*",
        b"text/html, application/json",
        b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
        b"application/json;q=0.001",
        b"application/json ; q=1.0",
        b"application/json;charset=utf-8;q=0.5",
        b"application/json;q=1, */*;q=0",
        b"*/*;q=0, application/json",
        b"application/*;q=0, application/json;q=0.1",
        b"*/*;q=0, application/*;q=0.1",
        b"text/html;q=0, */*",
    ],
)
def test_an_accept_that_leaves_room_for_json_passes(accept):
    assert accepts_json(accept)


@pytest.mark.parametrize(
    "accept",
    [
        b"text/html",
        b"text/*",
        b"text/html, text/plain;q=0.5",
        b"application/xml",
        b"application/problem+json",
        b"application/jsonp",
        b"application/json;q=0",
        b"application/json; q=0.000",
        b"application/json;Q=0",
        b"*/*;q=0",
        b"application/*;q=0",
        b"application/json;q=0, */*",
        b"*/*, application/json;q=0",
        b"application/*;q=0, */*;q=1",
    ],
)
def test_an_accept_that_excludes_json_does_not_pass(accept):
    assert not accepts_json(accept)


@pytest.mark.parametrize("accept", [b"json", b"*", b"\xff\xfe", b";;", b"q=0"])
def test_an_accept_without_a_media_range_excludes_nothing(accept):
    assert accepts_json(accept)


@pytest.mark.parametrize("weight", [b"", b"high", b"nan", b"\xff"])
def test_an_unreadable_weight_excludes_nothing(weight):
    assert accepts_json(b"application/json;q=" + weight)


@given(st.binary())
def test_any_accept_is_understood_somehow(accept):
    assert accepts_json(accept) in (True, False)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"application/json",
        b"Application/JSON",
        b" application/json ",
        b"application/json; charset=utf-8",
        b"application/json;charset=latin-1",
        b"application/json;",
        b"application/vnd.prioticket+json",
        b"application/cloudevents+json; charset=UTF-8",
    ],
)
def test_json_content_types_and_none_at_all_are_json(content_type):
    assert is_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/plain",
        b"text/json",
        b"application/x-www-form-urlencoded",
        b"application/jsonp",
        b"application/xml",
        b"application/json-seq",
        b"image/svg+json",
        b"json",
        b";",
        b"application/json,text/plain",
        b"\xff",
    ],
)
def test_other_content_types_are_not_json(content_type):
    assert not is_json(content_type)


@pytest.mark.parametrize(
    "content_type",
    [b"application/json,application/json", b"application/json, APPLICATION/JSON", b'application/json; a="x,y"'],
)
def test_a_content_type_that_is_repeated_with_one_value_is_one(content_type):
    assert is_json(content_type)


@pytest.mark.parametrize("content_type", [b"application/json,text/plain", b"text/plain,application/json", b","])
def test_two_content_types_are_not_json(content_type):
    assert not is_json(content_type)
