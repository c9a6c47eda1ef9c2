"""Runbooks: what to do when something is wrong, as docs/runbooks.md has it."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from app.api.state import State
from app.console.pages import CONSOLE, page

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "docs"
RUNBOOKS = (INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "docs") / "runbooks.md"
"""In the package once it is installed; beside the package in a checkout."""

MARKED = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(([^)]+)\)")

SECTIONS = {
    "not_acknowledging": "PriohookNotAcknowledging",
    "sender_refused": "PriohookSenderRefused",
    "silence": "PriohookSilence",
    "refused_share": "PriohookSenderRefused",
    "refused": "PriohookStrangersRefused",
    "quarantined": "PriohookQuarantined",
    "spool": "PriohookSpoolWaits",
    "spool_unreadable": "PriohookSpoolWaits",
    "disk": "PriohookDiskFull",
    "schema": "PriohookSchemaBehind",
    "database": "PriohookDatabaseAway",
    "primary_missing": "PriohookDatabaseAway",
    "standby_missing": "PriohookDatabaseAway",
    "no_receiver": "PriohookNoReceiver",
    "no_worker": "PriohookNoWorker",
    "few_workers": "PriohookNoWorker",
    "process_silent": "PriohookProcessSilent",
    "credential_expires": "PriohookCredentialExpires",
    "undispatched": "PriohookNotDispatched",
    "reconcile_interrupted": "PriohookReconcileInterrupted",
    "reconcile_found_missing": "PriohookMissedWebhooks",
    "destination_down": "PriohookDestinationDown",
    "held_back": "PriohookHeldBack",
    "destination_late": "PriohookDeliveriesLate",
    "dead": "PriohookDead",
    "destination_paused": "PriohookDestinationPaused",
    "destination_unusable": "PriohookDestinationUnusable",
    "certificate_expires": "PriohookCertificateExpires",
}
"""The section for what is wrong, by its name; some need none."""


class Section(NamedTuple):
    """A section; its paragraphs are HTML."""

    name: str
    words: str
    paragraphs: list[Markup]


async def show(request: Request[State]) -> Response:
    """All sections."""
    return page(request, "runbooks.html", sections=sections())


def section_of(name: str) -> str | None:
    """The address of the section for what is wrong; None if there is none."""
    return f"{CONSOLE}/runbooks#{SECTIONS[name]}" if name in SECTIONS else None


@cache
def sections() -> list[Section]:
    """The sections of the file; read once."""
    return list(_sections(RUNBOOKS.read_text("utf-8")))


def _sections(text: str) -> Iterator[Section]:
    for part in text.split("\n## ")[1:]:
        name, *paragraphs = part.strip().split("\n\n")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("Priohook")).capitalize()
        yield Section(name, words, [_paragraph(each) for each in paragraphs])


def _paragraph(text: str) -> Markup:
    """A paragraph with its code and bold words; of a link to another page of the docs, the words."""
    made, end = Markup(""), 0
    for found in MARKED.finditer(text):
        code, bold, words, _ = found.groups()
        made += text[end : found.start()]
        if code is not None:
            made += Markup("<code>{}</code>").format(code)
        elif bold is not None:
            made += Markup("<strong>{}</strong>").format(bold)
        else:
            made += words
        end = found.end()
    return made + text[end:]
