"""Spans for OpenTelemetry, if the operator wants them. Without that nothing of it is imported, and nothing is recorded.

Whether or not spans are recorded, each request and each attempt has its `traceparent`: see `app.telemetry.traces`.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from threading import Thread
from typing import Protocol

from app.telemetry import traces

logger = logging.getLogger(__name__)

WANTED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables of OpenTelemetry's own; one of them must be set."""

DISABLED_BY = "OTEL_SDK_DISABLED"
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
LAST = 2.0  # seconds that a process that ends waits for its last spans

Attributes = Mapping[str, str | int | bool | float | None]
"""None stands for an attribute that is not there."""


class Recorder(Protocol):
    """Records spans that have ended; see `app.telemetry.otel`."""

    def is_sampled(self, trace_id: str) -> bool:
        """Whether a trace that begins here is recorded."""

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
        """Records a span.

        Args:
            name: What was done.
            traceparent: Of the span.
            parent: The `traceparent` of its parent; None if a trace began with it.
            begun_ns: Nanoseconds since 1970.
            ended_ns: Nanoseconds since 1970.
            outgoing: Whether it is a request of ours; False for one of another program, None for neither.
            failed: Whether it failed.
            attributes: What is known of it.
        """

    def close(self) -> None:
        """Sends what is left; may take long."""


class Spans:
    """The spans of one process; use as `async with spans.running()`.

    Attributes:
        recorder: Records them; None if nobody wants them.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Records spans, if they are wanted and OpenTelemetry is installed."""
        if self.recorder is None and is_wanted(os.environ):
            if _is_installed():
                # Not an import of this module, as the package is an extra.
                self.recorder = import_module("app.telemetry.otel").OpenTelemetry()
            else:
                why = "OpenTelemetry is wanted, but not installed: `pip install 'priohook[otel]'`."
                logger.warning("spans_are_off", extra={"fields": {"reason": why}})
        try:
            yield
        finally:
            if self.recorder is not None:
                closing = Thread(target=self.recorder.close, name="last-spans", daemon=True)
                closing.start()
                await asyncio.to_thread(closing.join, LAST)

    def begun(self, request_id: str | None = None) -> str:
        """The `traceparent` of the first span of a new trace, for a request or for anything else."""
        if self.recorder is None:
            return traces.begun() if request_id is None else traces.begun_by(request_id)
        trace = traces.begun()  # of random ids, as samplers want them
        sampled = self.recorder.is_sampled(traces.trace_id(trace))
        return trace if sampled else trace[:-2] + traces.NOT_SAMPLED


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables say where spans go."""
    return any(environ.get(name) for name in WANTED_BY) and environ.get(DISABLED_BY, "").lower() != "true"


def _is_installed() -> bool:
    try:
        return find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
