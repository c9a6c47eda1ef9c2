"""Spans of real processes, exported to a collector, and what processes say of themselves."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.conftest import Served, configured, dial, new_event, request
from tests.e2e.test_worker_beside import until

SENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP, and consumer of events at any other path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.traceparents: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
        else:
            self.server.traceparents.append(self.headers["traceparent"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def post(server: Served) -> int:
    with dial(server) as wire:
        return wire.send(request(new_event(), f"traceparent: {SENT}")).reply().status


def test_a_webhooks_way_from_its_sender_to_a_consumer_is_one_trace_of_spans(serve, sqlite_url, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    destinations = json.dumps({"erp": {"url": f"{collector.url}/in"}})
    server = serve(with_worker=True, **configured(sqlite_url, destinations=destinations))
    assert post(server) == 200
    until(lambda: collector.named("attempt") and collector.named("receive"))
    server.end()
    assert sorted(span.name for span in collector.spans) == ["attempt", "commit", "dispatch", "receive"]
    assert {span.trace_id.hex() for span in collector.spans} == {SENT[3:35]}
    (receive,), (attempt,) = collector.named("receive"), collector.named("attempt")
    assert receive.parent_span_id.hex() == SENT[36:52]
    assert {span.parent_span_id for span in collector.spans if span is not receive} == {receive.span_id}
    assert collector.traceparents == [f"{SENT[:36]}{attempt.span_id.hex()}-01"]


def test_a_collector_that_is_away_costs_neither_answers_nor_the_end(serve, sqlite_url, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    server = serve(**configured(sqlite_url))
    assert [post(server) for _ in range(3)] == [200] * 3
    assert server.end() == 0


def test_without_a_variable_nothing_of_opentelemetry_is_imported(serve, sqlite_url, monkeypatch):
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    server = serve(**configured(sqlite_url))
    assert post(server) == 200
    server.end()
    assert "starlette" in server.stderr
    assert "opentelemetry" not in server.stderr
