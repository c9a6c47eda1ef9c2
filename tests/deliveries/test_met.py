import pytest

from app.deliveries.met import met


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (500, None, "500"),
        (None, "ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 9)", "connection refused"),
        (None, "gaierror: [Errno -2] Name or service not known", "gaierror: Name or service not known"),
        (200, "The answer was cut off.", "200 The answer was cut off."),
        (None, None, ""),
    ],
)
def test_what_an_attempt_met_is_told_in_few_words(status, error, words):
    assert met(status, error) == words
