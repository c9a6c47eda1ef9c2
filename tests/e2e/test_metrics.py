"""GET /metrics of real processes."""

import json
import os
import re
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from app.cli.page import MOST_CONNECTIONS
from tests.e2e.conftest import configured, dial, migrate, new_event, request

PATIENCE = 60.0  # seconds; a bound for a slow machine
ACCEPTED = 'priohook_http_requests_total{endpoint="webhook",status="200"}'
PID = re.compile(r'^process_start_time_seconds\{process="([^"]+)"\} (\S+)$', re.MULTILINE)


def started(served, number=1):
    """The URL of the page, once the log names it."""
    ends = monotonic() + PATIENCE
    while len(found := re.findall(r'"event":"metrics_started","url":"([^"]+)"', served.stderr)) < number:
        assert monotonic() < ends
        sleep(0.05)
    return found[-1]


def text(url):
    with urlopen(url, timeout=PATIENCE) as reply:  # noqa: S310 - our own
        return reply.read().decode()


def value(url, series):
    found = [line.rpartition(" ")[2] for line in text(url).splitlines() if line.startswith(series + " ")]
    return float(found[0]) if found else None


def until(condition):
    ends = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < ends
        sleep(0.1)


def post(served, events=1):
    for _ in range(events):
        with dial(served) as wire:  # another connection each time, so that all processes get some
            assert wire.send(request(new_event())).reply().status == 200


@pytest.fixture
def served(serve, empty_postgres_url):
    migrate(empty_postgres_url)
    destinations = json.dumps({"erp": {"url": "http://127.0.0.1:9/"}})
    settings = configured(empty_postgres_url, metrics="127.0.0.1:0", destinations=destinations)
    return serve("--processes", "2", with_worker=True, **settings)


def children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def test_one_page_sums_all_processes_and_goes_on_when_they_die(served):
    url = started(served)
    post(served, 20)
    until(lambda: value(url, ACCEPTED) == 20)
    until(lambda: value(url, 'priohook_processes{kind="worker",state="running"}') == 1)
    until(lambda: (value(url, 'priohook_attempts_total{destination="erp",outcome="unreachable"}') or 0) > 0)
    assert {"receiver-0", "receiver-1", "worker", "metrics"} <= {name for name, _ in PID.findall(text(url))}
    receivers = children(served.pid)
    assert len(receivers) == 2
    for receiver in receivers:  # the page is beside one of them
        os.kill(receiver, signal.SIGKILL)
    until(lambda: len(set(children(served.pid)) - set(receivers)) == 2)
    post(served, 5)
    until(lambda: value(url, ACCEPTED) == 25)
    assert served.end() == 0


def test_a_page_that_is_killed_is_started_again_at_the_same_address(serve, sqlite_url):
    served = serve(**configured(sqlite_url, metrics="127.0.0.1:0"))
    url = started(served)
    post(served)
    until(lambda: value(url, ACCEPTED) == 1)
    (page,) = children(served.pid)
    os.kill(page, signal.SIGKILL)
    until(lambda: value(url, ACCEPTED) == 1)
    assert children(served.pid) != [page]
    assert '"event":"metrics_ended","status":"SIGKILL"' in served.stderr
    assert served.end() == 0


def test_connections_that_send_nothing_keep_nobody_from_the_page(serve, sqlite_url):
    url = started(serve(**configured(sqlite_url, metrics="127.0.0.1:0")))
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    with ExitStack() as stack:
        for _ in range(2 * MOST_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, int(port)))).sendall(b"GET /metrics HTTP/1.1\r\n")
        assert "priohook_database_up 1.0" in text(url)


def test_an_acknowledgement_takes_from_the_first_byte_of_the_head(serve, sqlite_url):
    served = serve(**configured(sqlite_url, metrics="127.0.0.1:0"))
    url = started(served)
    whole = request(new_event())
    with dial(served) as wire:
        wire.send(whole[:40])
        post(served)
        began = monotonic()
        until(lambda: value(url, ACCEPTED) == 1)  # up to a second
        waited = monotonic() - began
        assert wire.send(whole[40:]).reply().status == 200
    until(lambda: value(url, ACCEPTED) == 2)
    assert value(url, "priohook_acknowledgement_duration_seconds_sum") > waited


def test_the_public_port_has_no_metrics_and_the_page_has_nothing_else(serve, sqlite_url):
    served = serve(**configured(sqlite_url, metrics="127.0.0.1:0"))
    url = started(served)
    for other in (served.url + "/metrics", url.replace("/metrics", "/"), url.replace("/metrics", "/api/events")):
        with pytest.raises(HTTPError) as error:
            urlopen(other, timeout=PATIENCE)  # noqa: S310
        with error.value:  # which holds the connection
            assert error.value.code == 404


def test_an_address_that_is_taken_is_refused_at_the_start(priohook, sqlite_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = f"127.0.0.1:{taken.getsockname()[1]}"
        done = priohook("serve", "--port", "0", **configured(sqlite_url, metrics=metrics))
    assert done.returncode == 1
    assert "Set `metrics` to another address, for one process with PRIOHOOK_METRICS." in done.stderr


def test_without_the_setting_there_is_no_page(serve, sqlite_url):
    served = serve(**configured(sqlite_url))
    assert children(served.pid) == []
