"""Who may send requests: an entry of the `clients` table."""

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from app.settings.values import words

SHORTEST_SECRET = 16  # characters; a digest without a slow hash is safe only for secrets nobody can guess
UNFIT_FOR_BASIC = re.compile(r"[:\x00-\x1f\x7f]")  # in a username; RFC 7617, section 2


class Scope(StrEnum):
    """What a client may do."""

    SEND = "webhooks:send"
    READ = "events:read"
    REPLAY = "events:replay"
    ERASE = "events:erase"
    CONSOLE = "console"


class ClientSettings(BaseModel):
    """One entry of the `clients` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret: SecretStr | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    scopes: Annotated[frozenset[Scope], NoDecode, BeforeValidator(words)] = Field(min_length=1)
    username: str | None = Field(default=None, min_length=1)
    not_before: AwareDatetime | None = None
    not_after: AwareDatetime | None = None

    @field_validator("username")
    @classmethod
    def _fits_basic(cls, username: str | None) -> str | None:
        if username and UNFIT_FOR_BASIC.search(username):
            raise ValueError("must not have a colon or a control character: HTTP Basic cannot carry them")
        return username

    @field_validator("secret")
    @classmethod
    def _fits_basic_and_is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret and len(secret.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"must have {SHORTEST_SECRET} characters or more; `priohook clients new NAME` makes one")
        if secret and re.search(r"[\x00-\x1f\x7f]", secret.get_secret_value()):
            raise ValueError("must not have a control character: HTTP Basic cannot carry them")
        return secret

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if (self.secret is None) == (self.sha256 is None):
            raise ValueError("needs exactly one of secret and sha256; `priohook clients new NAME` prints both")
        return self
