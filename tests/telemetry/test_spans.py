import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from app.deliveries.results import Ended, Outcome
from app.deliveries.spans import record_spans
from app.deliveries.tables import AttemptResult
from app.telemetry import traces
from app.telemetry.otel import OpenTelemetry
from app.telemetry.spans import DISABLED_BY, WANTED_BY, Spans, is_wanted
from tests.conftest import WEBHOOK, basic_header, bearer_header, payload
from tests.deliveries.claims import new_claim
from tests.telemetry.test_tally import NOON

NOTIFICATION = payload("01-notification-order-create")
SENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def recorder(exported: InMemorySpanExporter) -> Iterator[OpenTelemetry]:
    recorder = OpenTelemetry(SimpleSpanProcessor(exported))
    yield recorder
    recorder.close()


@pytest.fixture
def spans(exported: InMemorySpanExporter) -> Callable[[], dict[str, ReadableSpan]]:
    return lambda: {span.name: span for span in exported.get_finished_spans()}


def place(span: ReadableSpan) -> tuple[str, str, str | None]:
    """The ids of its trace, of itself and of its parent."""
    context: Any = span.context
    parent = format_span_id(span.parent.span_id) if span.parent else None
    return format_trace_id(context.trace_id), format_span_id(context.span_id), parent


@pytest.fixture
def record(start: Callable[..., Any], recorder: OpenTelemetry, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`async with record(url) as client`: a client of an application whose spans are recorded."""
    monkeypatch.setattr("app.application.Spans", lambda: Spans(recorder))
    return start


async def test_a_webhook_is_a_span_in_the_senders_trace_with_its_commit_below(record, sqlite_url, spans, stored_of):
    async with record(sqlite_url) as client:
        reply = await client.post(WEBHOOK, content=NOTIFICATION, headers={**basic_header(), "traceparent": SENT})
        receive, commit = (spans()[name] for name in ("receive", "commit"))
        trace, event_id = (await stored_of(client, reply))["trace"], reply.headers["Event-Id"]
    assert place(receive) == (SENT[3:35], trace[36:52], SENT[36:52])
    assert place(commit)[0] == SENT[3:35]
    assert place(commit)[2] == trace[36:52]
    assert receive.kind is SpanKind.SERVER
    assert receive.attributes is not None
    assert receive.attributes["http.response.status_code"] == 200
    assert receive.attributes["priohook.event.id"] == event_id
    assert receive.start_time is not None
    assert commit.start_time is not None
    assert receive.start_time <= commit.start_time


async def test_a_refused_webhook_is_a_span_without_a_commit(record, sqlite_url, spans):
    async with record(sqlite_url) as client:
        await client.post(WEBHOOK, content=NOTIFICATION)
        await client.get("/api/events")
    assert list(spans()) == ["receive"]
    assert spans()["receive"].parent is None
    assert spans()["receive"].attributes["priohook.reason"] == "missing"


async def test_no_span_has_a_credential_or_a_body(record, sqlite_url, exported):
    async with record(sqlite_url) as client:
        await client.post(WEBHOOK, content=payload("08-order-payload-confirmed"), headers=basic_header())
    text = "".join(span.to_json() for span in exported.get_finished_spans())
    assert "alex" not in text.lower()
    assert basic_header()["Authorization"].split()[1] not in text


@pytest.mark.parametrize("result", [AttemptResult.DELIVERED, AttemptResult.REFUSED])
def test_a_first_attempt_is_a_span_beside_that_of_its_dispatch(recorder, spans, result):
    parent = traces.begun()
    trace = traces.child(parent)
    outcome = Outcome(result, 200 if result is AttemptResult.DELIVERED else 500)
    ended = Ended(new_claim(attempt=1, trace=trace), NOON, timedelta(milliseconds=120), outcome)
    record_spans(recorder, "erp", ended, parent=parent)
    attempt, dispatch = spans()["attempt"], spans()["dispatch"]
    assert place(attempt) == (parent[3:35], trace[36:52], parent[36:52])
    assert place(dispatch)[2] == parent[36:52]
    assert attempt.kind is SpanKind.CLIENT
    assert attempt.end_time - attempt.start_time == 120_000_000
    assert attempt.attributes["priohook.destination"] == "erp"
    failed = result is not AttemptResult.DELIVERED
    assert (attempt.status.status_code is StatusCode.ERROR) == failed


def test_a_later_attempt_has_no_dispatch(recorder, spans):
    parent = traces.begun()
    claim = new_claim(attempt=2, trace=traces.child(parent))
    outcome = Outcome(AttemptResult.DELIVERED, 200)
    record_spans(recorder, "erp", Ended(claim, NOON, timedelta(0), outcome), parent=parent)
    assert list(spans()) == ["attempt"]


def test_a_trace_that_the_sampler_leaves_out_says_so_and_is_not_recorded(exported, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    recorder = OpenTelemetry(SimpleSpanProcessor(exported))
    trace = Spans(recorder).begun()
    assert trace.endswith("-00")
    times: dict[str, Any] = {"begun_ns": 1, "ended_ns": 2, "outgoing": False, "failed": False, "attributes": {}}
    recorder.record("receive", trace, parent=None, **times)
    recorder.record("receive", traces.child(SENT), parent=SENT, **times)
    assert [place(span)[0] for span in exported.get_finished_spans()] == [SENT[3:35]], "the sender's goes on"
    recorder.close()


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({WANTED_BY[0]: "http://127.0.0.1:4318"}, True),
        ({WANTED_BY[1]: "http://127.0.0.1:4318/v1/traces"}, True),
        ({WANTED_BY[0]: ""}, False),
        ({WANTED_BY[0]: "http://127.0.0.1:4318", DISABLED_BY: "true"}, False),
    ],
)
def test_spans_are_recorded_only_if_opentelemetrys_own_variables_say_where_to(environ, wanted):
    assert is_wanted(environ) == wanted


@pytest.mark.parametrize(("given", "name"), [({}, "priohook"), ({"OTEL_SERVICE_NAME": "tickets"}, "tickets")])
def test_the_operator_names_the_service(exported, monkeypatch, given, name):
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    recorder = OpenTelemetry(SimpleSpanProcessor(exported))
    times: dict[str, Any] = {"begun_ns": 1, "ended_ns": 2, "outgoing": False, "failed": False, "attributes": {}}
    recorder.record("receive", SENT, parent=None, **times)
    assert exported.get_finished_spans()[0].resource.attributes["service.name"] == name
    recorder.close()


@pytest.fixture
def stored_of() -> Callable[..., Any]:
    """`await stored_of(client, reply)`: the event of an answer, as the API shows it."""

    async def show(client: httpx2.AsyncClient, reply: httpx2.Response) -> Any:
        shown = await client.get(f"/api/events/{reply.headers['Event-Id']}", headers=bearer_header())
        return json.loads(shown.content)

    return show
