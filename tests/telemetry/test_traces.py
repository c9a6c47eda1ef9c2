import re

import pytest

from app.telemetry.middleware import new_request_id
from app.telemetry.traces import begun, begun_by, child, continued, kept, trace_id

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-9a-f]")


def test_the_trace_of_a_request_ends_with_the_requests_id():
    trace = begun_by(request_id := new_request_id())
    assert FORM.fullmatch(trace)
    assert trace_id(trace).endswith(request_id)


def test_only_a_trace_that_does_not_follow_from_the_requests_id_is_kept():
    request_id = new_request_id()
    assert kept(begun_by(request_id), request_id) is None
    assert kept(VALID, request_id) == VALID
    assert kept(trace := begun(), request_id) == trace


def test_a_new_trace_is_valid_recorded_and_its_own():
    traces = {begun() for _ in range(100)}
    assert len({trace_id(each) for each in traces}) == 100
    assert all(FORM.fullmatch(each) and each.endswith("-01") for each in traces)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_senders_trace_goes_on_with_a_span_of_ours_and_the_senders_flags(flags):
    ours = continued(f"{VALID[:-2]}{flags}".encode())
    assert ours is not None
    assert FORM.fullmatch(ours)
    assert (ours[:36], ours[-2:]) == (VALID[:36], flags)
    assert ours[36:52] != VALID[36:52]


def test_a_later_version_is_read_as_far_as_it_is_known():
    ours = continued(b"cc" + VALID[2:].encode() + b"-what-the-future-will-be")
    assert ours is not None
    assert (ours[:3], trace_id(ours)) == ("00-", trace_id(VALID))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "ff" + VALID[2:],
        VALID + "-more",
        VALID.upper(),
        VALID[:-1],
        VALID + " ",
        "00-" + "0" * 32 + VALID[35:],
        VALID[:36] + "0" * 16 + "-01",
        "a" * 60_000,
    ],
)
def test_what_is_not_valid_is_not_continued(header):
    assert continued(header.encode()) is None


def test_a_child_is_another_span_of_the_same_trace():
    span = child(VALID)
    assert FORM.fullmatch(span)
    assert trace_id(span) == trace_id(VALID)
    assert span[36:52] != VALID[36:52]
