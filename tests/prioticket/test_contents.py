import gzip

import pytest
from pydantic import ValidationError

from app.prioticket.contents import MOST_BYTES, Contained, read_object, read_order
from app.settings.model import Settings

GZIP = [["content-encoding", "gzip"]]


def body(inside: str) -> bytes:
    return b'{"data": {"order": {"order_reference": "A", "inside": ' + inside.encode() + b"}}}"


def test_the_object_and_its_decoded_size_are_read():
    content = body("1")
    assert read_object([], content, limit=1000) == (
        Contained("order", "A", {"order_reference": "A", "inside": 1}),
        len(content),
    )
    assert read_object(GZIP, gzip.compress(content), limit=1000)[1] == len(content)


def test_what_inflates_over_the_limit_is_not_read():
    assert read_object(GZIP, gzip.compress(body("1").ljust(2000)), limit=1000) == (None, 1001)


def test_half_a_character_is_a_question_mark():
    found, _ = read_object([], body('"\\ud800"'), limit=1000)
    assert found == Contained("order", "A", {"order_reference": "A", "inside": "?"})


def test_an_object_too_deep_to_be_written_is_none():
    deep = "[" * 3000 + "]" * 3000
    assert read_object([], body(f'["\\ud800", {deep}]'), limit=10_000)[0] is None


def test_an_order_is_read_whatever_coding_and_text_it_has():
    content = b'{"data": {"order": {"note": "\\ud800"}}}'
    assert read_order(GZIP, gzip.compress(content)) == {"note": "\ud800"}


@pytest.mark.slow
def test_of_a_body_larger_than_any_that_is_taken_no_order_is_read():
    content = b'{"data": {"order": {}}}'
    assert read_order(GZIP, gzip.compress(content.ljust(MOST_BYTES))) == {}
    assert read_order(GZIP, gzip.compress(content.ljust(MOST_BYTES + 1))) is None
    assert Settings(max_body_bytes=MOST_BYTES)
    with pytest.raises(ValidationError):
        Settings(max_body_bytes=MOST_BYTES + 1)
