"""The spans of a delivery."""

from datetime import datetime

from app.deliveries.results import Ended
from app.deliveries.tables import AttemptResult
from app.events.ids import EPOCH, MICROSECOND, made_at
from app.telemetry import traces
from app.telemetry.spans import Recorder


def record_spans(recorder: Recorder, destination: str, ended: Ended, *, parent: str | None) -> None:
    """Records an attempt, and with the first one of a live delivery its dispatch.

    The dispatch lasts from the arrival of the event until its delivery was made: the ids of both tell when that was.

    Args:
        recorder: Records them.
        destination: The destination's name.
        ended: The attempt; its claim has the attempt's `traceparent`.
        parent: The `traceparent` of the request that brought the event.
    """
    claim, outcome = ended.claim, ended.outcome
    of_event = {"priohook.event.id": str(claim.event_id), "priohook.destination": destination}
    if parent is not None and claim.attempt == 1 and claim.replay_id is None:
        recorder.record(
            "dispatch",
            traces.child(parent),
            parent=parent,
            begun_ns=_nanoseconds(made_at(claim.event_id)),
            ended_ns=_nanoseconds(made_at(claim.delivery_id)),
            outgoing=None,
            failed=False,
            attributes=of_event,
        )
    recorder.record(
        "attempt",
        claim.trace or traces.begun(),
        parent=parent,
        begun_ns=_nanoseconds(ended.started_at),
        ended_ns=_nanoseconds(ended.started_at + ended.duration),
        outgoing=True,
        failed=outcome.result is not AttemptResult.DELIVERED,
        attributes={
            **of_event,
            "priohook.event.type": claim.type,
            "priohook.reference": claim.reference,
            "priohook.delivery.id": str(claim.delivery_id),
            "priohook.attempt": claim.attempt,
            "priohook.result": outcome.result.value,
            "priohook.replay.id": None if claim.replay_id is None else str(claim.replay_id),
            "http.response.status_code": outcome.status,
            "error.type": None if outcome.error is None else outcome.error.partition(":")[0],
        },
    )


def _nanoseconds(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND * 1000
