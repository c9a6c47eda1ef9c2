"""The command `priohook erase`."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.alarms.words import counted
from app.api.erasures import Receipt, receipt
from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.cli.confirming import confirm
from app.cli.filters import giving_reason, read_ids
from app.cli.opened import acting, load_settings, opened
from app.cli.output import print_fields, say, say_json
from app.cli.progress import progress_bar
from app.cli.spool import move_files
from app.deliveries.operations import BeingSent
from app.events.ids import new_id
from app.events.queries import EventBody
from app.events.spool_contents import Spooled
from app.events.spool_file import SpoolFile
from app.retention import wiping
from app.retention.contacts import names, pattern_of, search
from app.retention.erasing import Erased, Undelivered, of_reference, plan, references_of
from app.retention.erasing import erase as erase_stored
from app.retention.spooled import waiting_in
from app.settings.model import Settings

AT_ONCE = 500  # events of one transaction
TRIES, WAIT = 30, 0.5  # seconds; for deliveries that are being sent now


@dataclass(kw_only=True)
class Found:
    """The events to erase, and what is known of them."""

    ids: list[UUID] = field(default_factory=list)
    erased_before: int = 0
    undelivered: int = 0
    unreadable: int = 0
    """How many bodies could not be searched for an address."""
    spooled: dict[Path, list[UUID]] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)
    """Of an address: the orders that name it. All of their events are meant."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Exactly one of three: whose events, or which."""

    reference: str | None
    ids: list[UUID] | None
    contact: str | None

    def spooled(self, references: set[str]) -> Callable[[Spooled], bool | None]:
        """Whether an event in the spool is meant; adds the reference of one that names the address."""
        if self.contact is not None:
            pattern = pattern_of(self.contact)

            def is_meant(event: Spooled) -> bool | None:
                named = names(pattern, EventBody(event.id, event.headers, event.body))
                if named and event.reference is not None:
                    references.add(event.reference)
                return named or event.reference in references

            return is_meant
        known = set(self.ids or ())
        return lambda event: event.id in known or (event.reference is not None and event.reference == self.reference)


@click.command()
@click.option("--reference", help="The events of this order or other object.")
@click.option("--ids", type=click.File(encoding="latin-1"), help="A file with one event id on each line; - for stdin.")
@click.option("--contact", help="The events of all orders that name this e-mail address. Reads all bodies.")
@click.option("--now", "drop", is_flag=True, help="Drop deliveries of these events that are not delivered yet.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@giving_reason
@click.option("--json", "as_json", is_flag=True, help="The receipt as one JSON object.")
def erase(
    *, reference: str | None, ids: Any, contact: str | None, drop: bool, yes: bool, reason: str | None, as_json: bool
) -> None:
    """Erase what stored events hold of a person, for ever. Ids, times, types, references and hashes stay."""
    if sum(each is not None for each in (reference, ids, contact)) != 1:
        raise click.UsageError("Give one of --reference, --ids and --contact.")
    wanted = Wanted(reference=reference, ids=read_ids(ids), contact=contact)
    settings = load_settings()
    found = asyncio.run(_found(settings, wanted))
    number = len(found.ids) + sum(map(len, found.spooled.values()))
    if not number:
        _nothing(wanted, found, as_json=as_json)
        return
    if found.unreadable:
        say(f"Bodies that cannot be decoded, and so were not searched: {found.unreadable}.", err=True)
    if found.undelivered and not drop:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.UsageError(f"Not delivered yet: {found.undelivered}. Give --now to drop these deliveries.")
        confirm(
            f"Not delivered yet: {counted(found.undelivered, 'delivery', 'deliveries')}. Drop what is left?", yes=False
        )
        drop = True
    confirm(f"Erase {counted(number, 'event')} for ever?", yes=yes)
    act = Act(action=Action.ERASE, kind=Kind.ERASURE, target=str(new_id()), reference=reference, reason=reason)
    act.event_id = found.ids[0] if len(found.ids) == 1 else None
    done = asyncio.run(_erase(settings, wanted, found, act, drop=drop))
    if as_json:
        say_json(done)
    else:
        _print(done)


async def _found(settings: Settings, wanted: Wanted) -> Found:
    # The spool first: what is moved into the database after that is looked for there.
    found = Found()
    found.spooled = waiting_in(settings.spool, wanted.spooled(found.references))
    async with opened(settings) as engine:
        ids = wanted.ids or []
        if wanted.contact is not None:
            ids = await _naming(engine, settings, wanted, wanted.contact, found)
        elif wanted.reference is not None:
            async with engine.connect() as connection:
                ids = await of_reference(connection, wanted.reference)
        for some in _batches(sorted(set(ids))):
            async with engine.connect() as connection:
                planned = await plan(connection, some)
            found.ids += planned.events
            found.erased_before += planned.erased
            found.undelivered += planned.undelivered
    known = {*found.ids, *chain.from_iterable(found.spooled.values())}
    if wanted.ids is not None and len(known) + found.erased_before < len(set(wanted.ids)):
        raise click.ClickException("One of these ids belongs to no event. Nothing was erased.")
    return found


async def _naming(engine: AsyncEngine, settings: Settings, wanted: Wanted, contact: str, found: Found) -> list[UUID]:
    """The events that name the address, and all others of the same orders, which may name the person otherwise."""
    with progress_bar() as bar:
        task = bar.add_task("bodies", total=None)
        searched = await search(engine, contact, advance=lambda number: bar.advance(task, number))
    found.unreadable = searched.unreadable
    ids = set(searched.found)
    async with engine.connect() as connection:
        found.references.update(await references_of(connection, searched.found))
    for path, more in waiting_in(settings.spool, wanted.spooled(found.references)).items():
        found.spooled[path] = sorted({*found.spooled.get(path, ()), *more})
    async with engine.connect() as connection:
        for reference in sorted(found.references):
            ids.update(await of_reference(connection, reference))
    return sorted(ids)


async def _erase(settings: Settings, wanted: Wanted, found: Found, act: Act, *, drop: bool) -> Receipt:
    now = datetime.now(UTC)
    total = Erased([], 0, 0, 0)
    async with opened(settings) as engine:
        ids = found.ids + await _from_spool(settings, wanted, found)
        for some in _batches(sorted(set(ids))):
            erased = await _some(engine, some, act, drop=drop, now=now)
            total = total.plus(erased)
        vacuumed = await wiping.vacuum(engine)
        places = wiping.left(engine, emptied=await wiping.empty_log(engine), vacuumed=vacuumed)
    return receipt(UUID(act.target), total, erased_before=found.erased_before, at=now, left=places)


async def _some(engine: AsyncEngine, ids: Sequence[UUID], act: Act, *, drop: bool, now: datetime) -> Erased:
    """Erases some events in one transaction, once none of them is being sent."""
    for left in reversed(range(TRIES)):
        try:
            async with acting(engine, act) as connection:
                erased = await erase_stored(connection, ids, drop=drop, now=now)
                act.details = erased.summary()
        except Undelivered as error:
            raise click.ClickException(f"{error} Give --now to drop them.") from None
        except BeingSent as error:
            if not left:
                raise click.ClickException(f"{error} The same command erases the rest later.") from None
            await asyncio.sleep(WAIT)
        else:
            return erased
    raise AssertionError


async def _from_spool(settings: Settings, wanted: Wanted, found: Found) -> list[UUID]:
    """Moves the events that wait in files of the spool, and returns those that are in the database then.

    What the database refuses is deleted from its file: it would be delivered to nobody, and nothing else can erase it.
    """
    if not found.spooled:
        return []
    await move_files(settings, list(found.spooled), reason="Their events are to be erased.", err=True)
    for path, ids in waiting_in(settings.spool, wanted.spooled(found.references)).items():
        file = await asyncio.to_thread(SpoolFile.adopt, path)
        if file is None:
            raise click.ClickException(
                f"{len(ids)} of these events wait in {path}, which a receiver uses. Try again when it has moved them; "
                "if the database refuses them, stop the receiver first."
            )
        try:
            await file.erase(ids)
        finally:
            await file.close()
        say(f"{path}: {len(ids)} events that the database refused were deleted.", err=True)
    return [event_id for ids in found.spooled.values() for event_id in ids]


def _batches(ids: Sequence[UUID]) -> list[Sequence[UUID]]:
    return [ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE)]


def _nothing(wanted: Wanted, found: Found, *, as_json: bool) -> None:
    """Says why there is nothing to erase."""
    if not found.erased_before:
        whose = "names this address" if wanted.contact is not None else "has this reference"
        raise click.ClickException(f"No event {whose}.")
    if as_json:
        say_json({"events": 0, "erased_before": found.erased_before})
    else:
        say(f"All of these events were erased before: {found.erased_before}.")


def _print(done: Receipt) -> None:
    print_fields({name: value for name, value in done if name not in ("bodies", "left")})
    say("bodies")
    for body in done.bodies:
        say(f"  {body.event_id}  {body.sha256}")
    say("left")
    for place in done.left:
        say(f"  {place}")
