from base64 import b64encode

from app.checker.probes import probes

ALL = list(probes("prioticket", "a-secret-of-mine"))


def test_no_row_shows_the_secret():
    shown = " ".join(probe.asked for probe in ALL)
    assert b64encode(b"prioticket:a-secret-of-mine").decode() not in shown
    assert "Authorization: Basic \N{HORIZONTAL ELLIPSIS}" in shown


def test_a_check_fails_authentication_far_less_often_than_is_allowed():
    assert sum(probe.status == 401 and len(probe.sent) > 1 for probe in ALL) * 10 < 60


def test_the_body_in_chunks_has_an_end():
    (content,) = (probe.content for probe in ALL if not isinstance(probe.content, bytes))
    assert list(content)[-1] == b"0\r\n\r\n"
