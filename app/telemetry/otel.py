"""Records spans with OpenTelemetry's SDK, and exports them by OTLP over HTTP. Needs the extra `otel`.

Our spans have ended when they are recorded, and their ids are known by then. So no context is carried through the
program, and a request costs nothing until it is answered.
"""

import os
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context

from app.telemetry.spans import Attributes

KINDS = {True: SpanKind.CLIENT, False: SpanKind.SERVER, None: SpanKind.INTERNAL}


class OpenTelemetry:
    """Implements `Recorder`. OpenTelemetry's own variables say where spans go, how many are recorded and so on.

    Args:
        processor: Gets the spans; by default they are exported in batches.
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        self._ids = _GivenIds()
        self._provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("priohook", version("priohook"))

    def is_sampled(self, trace_id: str) -> bool:
        sampled = self._provider.sampler.should_sample(None, int(trace_id, 16), "receive")
        return sampled.decision is Decision.RECORD_AND_SAMPLE

    def record(
        self,
        name: str,
        traceparent: str,
        *,
        parent: str | None,
        begun_ns: int,
        ended_ns: int,
        outgoing: bool | None,
        failed: bool,
        attributes: Attributes,
    ) -> None:
        context = None
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(_context(parent, is_remote=outgoing is False)))
        self._ids.of = _context(traceparent, is_remote=False)
        span = self._tracer.start_span(
            name,
            context,
            KINDS[outgoing],
            {name: value for name, value in attributes.items() if value is not None},
            start_time=begun_ns,
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    def close(self) -> None:
        self._provider.shutdown()


class _GivenIds(IdGenerator):
    """Gives the next span the ids that its `traceparent` has."""

    of: SpanContext

    def generate_span_id(self) -> int:
        return self.of.span_id

    def generate_trace_id(self) -> int:
        return self.of.trace_id


def _context(traceparent: str, *, is_remote: bool) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(int(flags, 16)))


def _resource() -> Resource:
    """What the operator's variables say of this service; by default its name is `priohook`."""
    named = OTEL_SERVICE_NAME in os.environ or "service.name=" in os.environ.get(OTEL_RESOURCE_ATTRIBUTES, "")
    name = {} if named else {"service.name": "priohook"}
    return Resource.create({**name, "service.version": version("priohook")})
