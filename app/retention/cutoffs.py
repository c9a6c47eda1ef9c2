"""Cutoffs: which rows are old enough to be deleted."""

from datetime import datetime, timedelta
from enum import StrEnum

from app.settings.retention import RetentionSettings


class Kind(StrEnum):
    """What is deleted by age, in the order in which it is deleted: rows that belong to others go first."""

    ATTEMPTS = "attempts"
    DELIVERIES = "deliveries"
    REPLAYS = "replays"
    QUARANTINED = "quarantined"
    ACCEPTED = "accepted"
    COPIES = "copies"
    AUDIT = "audit"


def cutoffs(ages: RetentionSettings, *, now: datetime) -> dict[Kind, datetime]:
    """From before when each kind may be deleted. A kind that is kept for ever is missing.

    A replay that has ended goes when its deliveries may go. `COPIES` are the keys of events that were deleted.
    """
    of_replays = [age for age in (ages.deliveries, ages.accepted) if age is not None]
    chosen: dict[Kind, timedelta | None] = {
        Kind.ATTEMPTS: ages.attempts,
        Kind.DELIVERIES: ages.deliveries,
        Kind.REPLAYS: min(of_replays, default=None),
        Kind.QUARANTINED: ages.quarantined,
        Kind.ACCEPTED: ages.accepted,
        Kind.COPIES: ages.copies,
        Kind.AUDIT: ages.audit,
    }
    return {kind: now - age for kind, age in chosen.items() if age is not None}
