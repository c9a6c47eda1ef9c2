"""The table `retention`: how long what is stored is kept."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

AGE = re.compile(r"(\d{1,5})([hd])")
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}
SHORTEST = timedelta(hours=1)
"""Longer than a notification without an id has copies, and than any attempt or transaction takes."""


def as_written(age: timedelta) -> str:
    """An age as the settings say it, such as `90d`."""
    hours = round(age / UNITS["h"])
    return f"{hours}h" if hours % 24 else f"{hours // 24}d"


def _age(value: object) -> object:
    if not isinstance(value, str):
        return value
    if (given := AGE.fullmatch(value.strip())) is None:
        raise ValueError('must be a number of days or hours, such as "90d" or "12h"')
    return int(given[1]) * UNITS[given[2]]


def _long_enough(age: timedelta) -> timedelta:
    if age < SHORTEST:
        raise ValueError("must be at least an hour")
    return age


Age = Annotated[timedelta, BeforeValidator(_age), AfterValidator(_long_enough)]


class RetentionSettings(BaseModel):
    """The table `retention`. What has no age is kept for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    accepted: Age | None = None
    """Events, from their arrival on, with their deliveries and attempts."""
    quarantined: Age | None = None
    """Refused events, from their arrival on."""
    deliveries: Age | None = None
    """Deliveries that were delivered or dropped, from then on, with their attempts; at the latest with their event."""
    attempts: Age | None = None
    """Failed attempts of such deliveries, with their errors and answers; at the latest with their delivery."""
    audit: Age | None = None
    """Entries of the audit."""
    copies: Age = timedelta(days=30)
    """For how long after an event is deleted its copies are still known as copies."""
