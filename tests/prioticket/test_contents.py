import gzip

from app.prioticket.contents import read_object

GZIP = [["content-encoding", "gzip"]]


def body(inside: str) -> bytes:
    return b'{"data": {"order": {"order_reference": "A", "inside": ' + inside.encode() + b"}}}"


def test_the_object_and_its_decoded_size_are_read():
    content = body("1")
    assert read_object([], content, limit=1000) == ({"order_reference": "A", "inside": 1}, len(content))
    assert read_object(GZIP, gzip.compress(content), limit=1000)[1] == len(content)


def test_what_inflates_over_the_limit_is_not_read():
    assert read_object(GZIP, gzip.compress(body("1").ljust(2000)), limit=1000) == (None, 1001)


def test_half_a_character_is_a_question_mark():
    found, _ = read_object([], body('"\\ud800"'), limit=1000)
    assert found == {"order_reference": "A", "inside": "?"}


def test_an_object_too_deep_to_be_written_is_none():
    deep = "[" * 3000 + "]" * 3000
    assert read_object([], body(f'["\\ud800", {deep}]'), limit=10_000)[0] is None
