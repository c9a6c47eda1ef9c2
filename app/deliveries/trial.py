"""A test event: sent to one destination at once, beside its queue, and marked so that no consumer takes it for real."""

import json
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple
from uuid import UUID

from app.deliveries.claims import Claim
from app.deliveries.destinations.kinds import open_destination
from app.deliveries.results import Outcome
from app.deliveries.tables import AttemptResult
from app.events.ids import new_id
from app.settings.model import DestinationSettings, SettingsProblem

TYPE = "PRIOHOOK_TEST"
"""No type of Prioticket's begins with our name."""

MESSAGE = "A test of the connection, sent by priohook. It is about no order: answer with a 2xx, and do nothing else."


class Trial(NamedTuple):
    """What became of a test event."""

    id: UUID
    """Its `webhook-id`."""
    started_at: datetime
    duration: timedelta
    outcome: Outcome

    @property
    def succeeded(self) -> bool:
        """Whether the destination took it."""
        return self.outcome.result is AttemptResult.DELIVERED


async def send_test(settings: DestinationSettings, *, now: datetime, within: timedelta | None = None) -> Trial:
    """Sends a test event, signed and with the headers of a real one. It is stored nowhere and never tried again.

    Args:
        settings: The destination's.
        now: When it is sent, for the signature.
        within: The longest time for its answer, if that is shorter than the destination's timeout.
    """
    if within is not None and within < settings.timeout:
        settings = settings.model_copy(update={"timeout": within})
    claim = _claim(now)
    kind = open_destination(settings)
    began = monotonic()
    try:
        await kind.open()
        outcome = await kind.send(claim, now=now)
    except SettingsProblem as error:
        outcome = Outcome(AttemptResult.UNREACHABLE, error=str(error))
    finally:
        await kind.close()
    return Trial(claim.event_id, now, timedelta(seconds=monotonic() - began), outcome)


def _claim(now: datetime) -> Claim:
    body = {"test": True, "event": TYPE, "message": MESSAGE, "sent_at": now.isoformat(timespec="milliseconds")}
    return Claim(
        delivery_id=new_id(),
        attempt=1,
        tries=1,
        lost=0,
        event_id=new_id(),
        type=TYPE,
        event_name=None,
        reference=None,
        replay_id=None,
        headers=[["content-type", "application/json"]],
        body=json.dumps(body, indent=1).encode(),
        superseded=False,
        test=True,
    )
