"""The command `priohook reconcile`."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.chain import Act
from app.audit.tables import Action, Kind
from app.auth.first_clients import with_kept_clients
from app.cli.account import account
from app.cli.filters import Moment, giving_reason
from app.cli.opened import acting, load_settings, opened
from app.cli.output import print_fields, say, say_json
from app.cli.progress import progress_bar
from app.cli.tables import print_rows
from app.database.writing import writing
from app.prioticket.client import prioticket_of
from app.prioticket.errors import PrioticketError
from app.prioticket.messages import Page
from app.reconciliation.alone import alone
from app.reconciliation.keeping import Keeper
from app.reconciliation.reconciling import Finding, Reconciler
from app.reconciliation.runs import Asked, Counts, Run, begin, fail, last_complete, new_run

SHOWN = ("reference", "order_version", "order_status", "order_modified", "verdict", "event_id", "error")
MOST_SHOWN = 1000
"""How many findings are shown; `--json` has all of them."""

LAST = "last"


class Since(Moment):
    """A time, or `last`."""

    name = "time or last"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == LAST else super().convert(value, param, ctx)


@click.command()
@click.option(
    "--since",
    required=True,
    type=Since(),
    help="Orders changed since then: 2026-08-12, 24h, 7d, or last for the newest complete run.",
)
@click.option("--until", type=Moment(), help="Leave out orders that changed later.")
@click.option("--dry-run", is_flag=True, help="Only list and compare: fetch and store nothing.")
@click.option("--versions", is_flag=True, help="Fetch the versions of a missing order that were missed before too.")
@click.option("--no-deliver", is_flag=True, help="Store what is fetched, but do not deliver it.")
@giving_reason
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object a line: each order that was missing or thin, then the counts.",
)
def reconcile(
    *,
    since: Any,
    until: datetime | None,
    dry_run: bool,
    versions: bool,
    no_deliver: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Ask Prioticket which orders changed, and fetch those whose webhooks never arrived.

    Exit 1 if something could not be fetched. After Ctrl-C or an error, the same command goes on where it ended.
    """
    account()
    report = _Report(as_json=as_json)
    chosen = {"until": until, "versions": versions, "deliver": not no_deliver}
    complete = False
    try:
        complete = asyncio.run(_reconcile(report, since, chosen, dry_run=dry_run, reason=reason))
    finally:
        report.close(complete=complete, dry_run=dry_run)
    if not complete or report.counts.refused:
        raise SystemExit(1)


async def _reconcile(
    report: "_Report", since: Any, chosen: dict[str, Any], *, dry_run: bool, reason: str | None
) -> bool:
    settings = with_kept_clients(load_settings())
    configured = account()
    async with (
        opened(settings, writes=not dry_run) as engine,
        prioticket_of(configured, told=report.say) as client,
        alone(engine) as mine,
    ):
        if not mine:
            raise click.ClickException("A reconciliation is running already, perhaps a worker's. Try again later.")
        run = await _begun(engine, since, chosen, dry_run=dry_run, reason=reason)
        if run.resumed:
            report.say(
                f"Going on with run {run.id}, begun {run.started_at:%F %T} UTC; --since last then finds later changes."
            )
        with _ending(report.say) as ended:
            reconciler = Reconciler(
                engine=engine,
                client=client,
                keep=None if dry_run else Keeper(engine, settings.clients).keep,
                thin=configured.enrich,
                keeps=settings.retention.accepted if settings.retention else None,
                found=report.found,
                read=report.read,
                ended=ended,
            )
            report.begin(run)
            try:
                report.counts, complete = await reconciler.reconcile(run)
            except PrioticketError as error:
                if not dry_run:
                    async with writing(engine) as connection:
                        await fail(connection, run, error)
                raise
    return complete


async def _begun(engine: AsyncEngine, since: Any, chosen: dict[str, Any], *, dry_run: bool, reason: str | None) -> Run:
    now = datetime.now(UTC)
    async with engine.connect() as connection:
        begins = await last_complete(connection, now=now) if since == LAST else since
    if begins is None:
        raise click.UsageError("No run is complete yet, so there is no last one. Give --since a time, such as 24h.")
    asked = Asked(since=begins, **chosen)
    if dry_run:
        return new_run(asked, now=now)
    act = Act(action=Action.RECONCILE, kind=Kind.RECONCILIATION, reason=reason, details={"since": begins.isoformat()})
    async with acting(engine, act) as connection:
        run = await begin(connection, asked, now=now)
        act.target = str(run.id)
    return run


@contextmanager
def _ending(tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Whether to end, as Ctrl-C or SIGTERM asks; the second one ends the process at once."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def end() -> None:
        asked.set()
        for number in numbers:
            loop.remove_signal_handler(number)
        tell("Ending after the order in hand; Ctrl-C again ends at once.")

    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield asked.is_set
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class _Report:
    """What the command prints: progress on a terminal, the findings, and the closing table."""

    def __init__(self, *, as_json: bool) -> None:
        self.counts = Counts()
        self._as_json = as_json
        self._run: Run | None = None
        self._shown: list[Finding] = []
        self._more = 0
        self._progress = progress_bar()
        self._task = self._progress.add_task("orders", total=None)

    def begin(self, run: Run) -> None:
        self._run, self.counts = run, run.counts
        self._progress.start()

    def say(self, sentence: str) -> None:
        """Tells a sentence on standard error."""
        say(sentence, err=True)

    def read(self, page: Page, counts: Counts) -> None:
        self.counts = counts
        self._progress.update(self._task, completed=counts.listed, total=page.total_items)

    def found(self, finding: Finding) -> None:
        if self._as_json:
            say_json(asdict(finding))
        elif len(self._shown) < MOST_SHOWN:
            self._shown.append(finding)
        else:
            self._more += 1

    def close(self, *, complete: bool, dry_run: bool) -> None:
        self._progress.stop()
        if self._run is None:
            return
        asked = self._run.asked
        counted = {"run": None if dry_run else self._run.id, "since": asked.since, "until": asked.until}
        counted |= asdict(self.counts)
        if not complete and not dry_run:
            self.say("The run is not complete: the same command goes on from here.")
        if self._as_json:
            say_json(counted)
            return
        print_rows(map(asdict, self._shown), SHOWN)
        if self._more:
            say(f"and {self._more} more: --json lists all of them.")
        say()
        print_fields(counted)
        if complete:
            say()
            say(_sentence(self.counts, self._run, dry_run=dry_run))


def _sentence(counts: Counts, run: Run, *, dry_run: bool) -> str:
    """What the counts mean, and what to do."""
    if not counts.missing:
        return "Nothing is missing."
    altered = ""
    if counts.altered:
        altered = f" Of {counts.altered} the version and time are stored, but with other contents."
    if dry_run:
        return f"The present state of {counts.missing} orders is not stored.{altered} Without --dry-run it is fetched."
    return (
        f"The present state of {counts.missing} orders never arrived.{altered} Prioticket's API gave {counts.fetched} "
        f"events, which are stored as fetched for `{run.fetched_for}`. If every run finds some, webhooks do not "
        "arrive: see `priohook prioticket webhooks list` and `priohook check URL`."
    )
