"""What is told of an alarm: a title and a text for people, JSON for programs.

Both hold ids, references, names of destinations and clients, and addresses; nothing else of an event.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic_core import to_json

from app.alarms.findings import Severity
from app.alarms.kept import Due, Listed
from app.alarms.tables import Stage
from app.alarms.words import lasting
from app.telemetry.printing import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent to a channel.

    Attributes:
        id: The same on every attempt.
        level: `warning`, `failure` or `success`, as apprise names them.
        body: JSON, with `type`, `timestamp` and `data` as Standard Webhooks recommends.
    """

    id: UUID
    title: str
    text: str
    level: str
    body: bytes


def message(notice: Due) -> Message:
    """What is told."""
    alarm, stage = notice.alarm, notice.stage
    about = f"{alarm.kind} {alarm.subject}".rstrip()
    titles = {
        Stage.STARTED: f"{about}: {alarm.name.replace('_', ' ')}",
        Stage.LASTS: f"{about} for {lasting(notice.made_at - alarm.started_at)}",
        Stage.ENDED: f"{about}: over",
    }
    levels = {Severity.CRITICAL: "failure", Severity.WARNING: "warning"}
    body = {"type": f"alarm.{stage}", "timestamp": notice.made_at, "data": alarm}
    return Message(
        id=notice.id,
        title=printable(f"priohook: {titles[stage]}"),
        text="\n".join(_lines(alarm, stage, at=notice.made_at)),
        level="success" if stage is Stage.ENDED else levels[Severity(alarm.severity)],
        body=to_json(body),
    )


def trial(notice_id: UUID, *, now: datetime) -> Message:
    """A message that only shows that the channel works."""
    text = "This is a test of priohook's alarms. Nothing is wrong."
    body = {"type": "alarm.test", "timestamp": now, "data": {"what": text}}
    return Message(id=notice_id, title="priohook: test", text=text, level="warning", body=to_json(body))


def _lines(alarm: Listed, stage: Stage, *, at: datetime) -> list[str]:
    what = printable(alarm.what)
    if stage is Stage.ENDED:
        ended = alarm.ended_at or at
        return [f"Over after {lasting(ended - alarm.started_at)}. It was: {what}", f"Alarm: {alarm.id}"]
    lines = [what]
    if alarm.since is not None:
        lines.append(f"Since: {alarm.since:%Y-%m-%d %H:%M:%S} UTC")
    if alarm.example is not None:
        lines.append(f"Example: {printable(alarm.example)}")
    return [*lines, f"Type: {printable(alarm.command)}", f"Alarm: {alarm.id}"]
