"""The tables `alarms` and `alarm_channels`: what is told, and to whom."""

import re
from datetime import timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from app.settings.hours import read_hours
from app.settings.keys import fit_signing, secrets
from app.settings.urls import http_target
from app.settings.values import Size, Span, Timeout, words

CHANNEL_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
HTTP = ("https://", "http://")


def _readable(text: str) -> str:
    read_hours(text)
    return text


class _Alarm(BaseModel):
    """What all alarms have."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ends_after: Span = timedelta(minutes=5)
    """An alarm ends when nothing has been wrong for so long: what comes and goes more often is one alarm."""


class SilenceAlarm(_Alarm):
    """Nothing was accepted."""

    quiet: Annotated[Span, Field(gt=timedelta(0))] = timedelta(hours=2)
    """For how long; only the time within `between` counts."""
    events: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = Field(default=("*",), min_length=1)
    """Globs on the type."""
    between: Annotated[str, AfterValidator(_readable)] | None = None
    ends_after: Span = timedelta(0)  # it needs `quiet` again to start


class BacklogAlarm(_Alarm):
    """Deliveries of a destination, or events without deliveries, wait for longer than this."""

    older_than: Span = timedelta(minutes=10)


class DeadAlarm(_Alarm):
    """A destination has more dead deliveries than this."""

    more_than: int = Field(default=0, ge=0)
    ends_after: Span = timedelta(0)  # a person ends it


class RefusedAlarm(_Alarm):
    """More of what known senders sent in ten minutes was refused than this."""

    more_than: float = Field(default=20, ge=0, lt=100)
    """Percent."""
    ends_after: Span = timedelta(minutes=30)  # a sender that is refused may wait for longer and longer


class CircuitAlarm(_Alarm):
    """A destination has been failing for longer than this, and its circuit breaker is open."""

    older_than: Span = timedelta(minutes=5)


class DiskAlarm(_Alarm):
    """Less is free than this."""

    less_than: Size = 1_000_000_000
    days: int = Field(default=7, ge=0)
    """Or what is free lasts for less than so many days."""


class SpoolAlarm(_Alarm):
    """Events have waited in the spool for longer than this."""

    older_than: Span = timedelta(minutes=1)


class WorkerAlarm(_Alarm):
    """Fewer workers run than this, or a process fell silent and none took its place."""

    less_than: int = Field(default=1, ge=1)


class ReconcileAlarm(_Alarm):
    """The newest reconciliation found more that never arrived than this, or was interrupted."""

    more_than: int = Field(default=0, ge=0)


class CertificateAlarm(_Alarm):
    """The certificate of a destination, or a client's credential, ends within this."""

    less_than: Span = timedelta(days=14)


class AlarmSettings(BaseModel):
    """The table `alarms`. Of a kind that is not there, nothing is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    silence: SilenceAlarm | None = None
    backlog: BacklogAlarm | None = None
    dead: DeadAlarm | None = None
    refused: RefusedAlarm | None = None
    circuit: CircuitAlarm | None = None
    disk: DiskAlarm | None = None
    spool: SpoolAlarm | None = None
    worker: WorkerAlarm | None = None
    reconcile: ReconcileAlarm | None = None
    certificate: CertificateAlarm | None = None


class AlarmChannel(BaseModel):
    """One entry of the `alarm_channels` table: where alarms are told (`url`), or a ping while all is well (`ping`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str | None = Field(default=None, repr=False)
    """An apprise URL, or `https://` for a POST."""
    secret: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(secrets), AfterValidator(fit_signing)] = ()
    """Signs the POST as Standard Webhooks says; several while rotating."""
    ping: str | None = Field(default=None, repr=False)
    every: Annotated[Span, Field(ge=timedelta(seconds=1))] = timedelta(minutes=1)
    timeout: Timeout = timedelta(seconds=10)

    @property
    def posts(self) -> bool:
        """Whether it is an HTTP POST of ours, and not apprise's."""
        return self.url is not None and self.url.startswith(HTTP)

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if (self.url is None) == (self.ping is None):
            raise ValueError(
                "needs exactly one of url, where alarms are told, and ping, a URL to GET while all is well"
            )
        if self.url is not None and not CHANNEL_URL.fullmatch(self.url):
            raise ValueError("url must be an apprise URL, such as mailto://…, or https://… for a POST")
        if self.ping is not None and not self.ping.startswith(HTTP):
            raise ValueError("ping must begin with https:// or http://")
        if self.posts or self.ping is not None:
            http_target(self.url or self.ping or "")
        if self.secret and not self.posts:
            raise ValueError("only a POST to https:// or http:// is signed: remove secret")
        if self.ping is None and "every" in self.model_fields_set:
            raise ValueError("only a ping has every")
        return self
