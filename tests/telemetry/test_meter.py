from datetime import timedelta

import pytest

from app.auth.reasons import Reason
from app.deliveries.tables import AttemptResult
from app.telemetry.meter import (
    ACKNOWLEDGED,
    ATTEMPT,
    ATTEMPTED,
    ATTEMPTS,
    COMMITS,
    COUNTED,
    DELAY,
    DROPPED,
    FAILED_COMMITS,
    QUARANTINES,
    RECEIVED,
    REFUSED,
    REQUESTS,
    Meter,
)

SECOND = timedelta(seconds=1)
STORED = {"path": "/webhooks/prioticket", "status": 200, "event_id": "e1", "duplicate": False, "type": "ORDER_CREATE"}


@pytest.fixture
def meter():
    return Meter(types=["ORDER_CREATE"], destinations=["erp"])


def test_a_stored_webhook_counts_as_a_request_and_as_an_event_of_its_type(meter):
    meter.answered(STORED, 0.02)
    meter.answered(STORED | {"duplicate": True}, 0.02)
    assert meter.counters[REQUESTS]["webhook", 200] == 2
    assert meter.counters[RECEIVED]["ORDER_CREATE", "accepted"] == 1
    assert meter.counters[RECEIVED]["ORDER_CREATE", "copy"] == 1
    assert sum(meter.histograms[ACKNOWLEDGED][()].counts) == 2


@pytest.mark.parametrize("made_up", ["ORDER_CREATE_" + "X" * 100, "", None])
def test_a_type_that_a_sender_made_up_counts_as_other(meter, made_up):
    meter.answered(STORED | {"type": made_up}, 0.02)
    assert meter.counters[RECEIVED]["other", "accepted"] == 1
    assert {labels[0] for labels in meter.counters[RECEIVED]} == {"other"}


def test_a_path_that_a_stranger_made_up_counts_as_other(meter):
    meter.answered({"path": "/wp-login.php", "status": 404, "reason": "not_found"}, 0.001)
    meter.answered({"path": "/api/events/01a2", "status": 401, "reason": "missing"}, 0.001)
    assert {labels[0] for labels in meter.counters[REQUESTS]} == {"webhook", "other", "api"}


@pytest.mark.parametrize(
    ("status", "reason"), [(422, "unprocessable"), (413, "too_large"), (200, "refused_by_database")]
)
def test_a_quarantined_event_counts_by_its_reason_and_its_copies_do_not(meter, status, reason):
    for duplicate in (False, True):
        line = STORED | {"status": status, "quarantined": status, "duplicate": duplicate}
        meter.answered(line, 0.02)
    assert meter.counters[QUARANTINES][reason,] == 1
    assert meter.counters[RECEIVED]["ORDER_CREATE", "quarantined"] == 1


@pytest.mark.parametrize("reason", list(Reason)[:6])
def test_each_reason_of_a_refused_credential_is_there_before_the_first(meter, reason):
    assert meter.counters[REFUSED]["webhook", 401, reason.value] == 0


def test_the_outcomes_of_attempts_are_those_of_the_deliveries():
    assert set(ATTEMPTED) == {each.value for each in AttemptResult}


def test_attempts_count_by_destination_and_outcome(meter):
    meter.attempted("erp", "delivered", SECOND, 90 * SECOND)
    meter.attempted("erp", "timed_out", 10 * SECOND, None)
    assert meter.counters[ATTEMPTS]["erp", "delivered"] == meter.counters[ATTEMPTS]["erp", "timed_out"] == 1
    assert meter.histograms[ATTEMPT]["erp",].total == 11.0
    assert meter.histograms[DELAY]["erp",].total == 90.0


def test_a_commit_that_fails_is_not_among_the_times_of_commits(meter):
    meter.committed(3, 0.004, failed=False)
    meter.committed(3, 5.0, failed=True)
    assert sum(meter.histograms[COMMITS][()].counts) == 1
    assert meter.counters[FAILED_COMMITS][()] == 1


@pytest.mark.parametrize(("value", "place"), [(0.0009, 0), (0.001, 0), (0.0011, 1), (10.0, 12), (11.0, 13)])
def test_a_value_counts_in_the_bucket_whose_bound_it_does_not_exceed(meter, value, place):
    meter.answered(STORED, value)
    assert meter.histograms[ACKNOWLEDGED][()].counts[place] == 1


def test_a_process_goes_on_from_what_the_one_before_it_had_counted(meter):
    meter.answered(STORED, 0.02)
    meter.dropped(5)
    after = Meter(types=["ORDER_CREATE"])
    counters = [(name, *each) for name, known in meter.counters.items() for each in known.items()]
    histograms = [
        (name, labels, each.counts, each.total)
        for name, known in meter.histograms.items()
        for labels, each in known.items()
    ]
    after.go_on_from(counters, histograms)
    after.answered(STORED, 0.02)
    after.dropped(1)
    assert after.counters[REQUESTS]["webhook", 200] == sum(after.histograms[ACKNOWLEDGED][()].counts) == 2
    assert after.counters[DROPPED][()] == 6


def test_names_and_units_are_as_prometheus_wants_them():
    assert all(name.startswith("priohook_") and not name.endswith("_total") for name in COUNTED)
    assert all(name.endswith("_seconds") for name, series in COUNTED.items() if "How long" in series.meaning)
