"""The table `prioticket`: the URL of Prioticket's API, and the account there."""

from datetime import timedelta
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from app.settings.urls import http_target
from app.settings.values import Every, Timeout


class PrioticketSettings(BaseModel):
    """The table `prioticket`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str
    """Such as `https://distributor-api.prioticket.com/v3.8/distributor`."""
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = Field(min_length=1)
    api_key: SecretStr | None = Field(default=None, min_length=1)
    """Production only."""
    scope: str | None = Field(default=None, min_length=1)
    """To ask for with the token; by default none is sent."""
    distributor_id: str | None = Field(default=None, min_length=1)
    """Lists this distributor's orders only."""
    timeout: Timeout = timedelta(seconds=60)
    """For one answer. Prioticket recommends 60 seconds."""
    rate: float = Field(default=5, gt=0, le=16)
    """Requests a second. Prioticket takes 1000 a minute from one address."""
    reconcile_every: Every | None = None
    """How often a worker looks for what never arrived, such as `15m`."""
    enrich: bool = False
    """Whether workers fetch the order of each notification without payload."""

    @field_validator("base_url")
    @classmethod
    def _is_safe_to_send_secrets_to(cls, url: str) -> str:
        if not url.startswith(("https://", "http://")) or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("must be a URL such as https://distributor-api.prioticket.com/v3.8/distributor")
        target = http_target(url)
        parts = urlsplit(url)
        if "@" in parts.netloc or "?" in url or "#" in url:
            raise ValueError("must have no credentials, query or fragment: set client_id, client_secret and api_key")
        if not target.tls and not _nearby(target.host):
            raise ValueError("must begin with https://: http:// is for loopback and private addresses only")
        return url.rstrip("/")

    @field_validator("client_id")
    @classmethod
    def _fits_basic(cls, client_id: str) -> str:
        if ":" in client_id or not client_id.isprintable():
            raise ValueError("must not have a colon or a control character: HTTP Basic cannot carry them")
        return client_id

    @model_validator(mode="after")
    def _secrets_fit_http(self) -> Self:
        for name, secret in (("client_secret", self.client_secret), ("api_key", self.api_key)):
            if secret is not None and not secret.get_secret_value().isprintable():
                raise ValueError(f"{name} must not have a control character")
        return self


def _nearby(host: str) -> bool:
    """Whether the host is loopback, a private address, or a name without a dot, which only a local network has."""
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(".localhost")
    return address.is_loopback or address.is_private
