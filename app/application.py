"""The application: one table of URLs, and the door of each. What lives as long as the process is in `lifespan`."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.middleware import Middleware

from app.api import (
    alarms,
    audit,
    deliveries,
    destinations,
    erasures,
    events,
    groups,
    health,
    orders,
    plans,
    quarantine,
    replay,
    replays,
    status,
    stream,
)
from app.api.turns import InTurn, TooManyRequests, Turns
from app.auth.basic import PROBLEMS as BASIC_PROBLEMS
from app.auth.basic import BasicDoor
from app.auth.bearer import PROBLEMS as BEARER_PROBLEMS
from app.auth.bearer import BearerDoor
from app.auth.clients import Clients, clients_from
from app.auth.keys import token_keys
from app.auth.limits import FAILURES, Limit
from app.auth.token_endpoint import TokenEndpoint
from app.auth.token_errors import TokenDoor, TokenError
from app.console import alarms as alarm_pages
from app.console import audit as audit_page
from app.console import deliveries as delivery_pages
from app.console import destinations as destination_pages
from app.console import erasures as erasure_pages
from app.console import events as event_pages
from app.console import finding, now, pages, runbooks, signing
from app.console import groups as group_pages
from app.console import orders as order_pages
from app.console import quarantine as refused_pages
from app.console import replays as replay_pages
from app.console import settings as settings_pages
from app.console.door import SIGN_IN, OpenDoor, SessionDoor
from app.console.pages import Page
from app.database.health import Health
from app.events.handover import Handover
from app.lifespan import Lifespan
from app.receiver.endpoint import Receiver
from app.settings.clients import Scope
from app.settings.model import Settings, SettingsProblem
from app.telemetry.logs import LogWriter
from app.telemetry.middleware import RequestLine
from app.telemetry.snapshots import Publisher
from app.telemetry.spans import Spans
from app.telemetry.tally import Tally
from app.web.openapi.operations import Door, Route
from app.web.openapi.page import Description
from app.web.router import Router


def create_app(
    settings: Settings,
    *,
    log: LogWriter,
    publisher: Publisher | None = None,
    known: Health | None = None,
    handover: Handover | None = None,
) -> Router:
    """The application of one process; nothing is opened before its lifespan starts.

    Args:
        settings: As `first_start.complete` gives them, with what is kept beside a SQLite database.
        log: Where its log lines go.
        publisher: Counts for the metrics, if they are wanted.
        known: What `/readyz` tells, for a server that knows when it ends.
        handover: Lets it go on with PostgreSQL when its SQLite file is moved there; without it, it refuses events then.

    Raises:
        SettingsProblem: no client is configured, or two clients have the same credentials.
    """
    clients, keys, failures = clients_from(settings.clients), token_keys(settings), Limit(FAILURES)
    if not clients:
        raise SettingsProblem(
            "No client is configured: `priohook clients new prioticket` prints an entry for `clients`."
        )
    receive = Receiver(
        max_body_bytes=settings.max_body_bytes,
        max_quarantined_bytes=settings.max_quarantined_bytes,
        body_timeout=settings.body_timeout,
        on_unprocessable=settings.on_unprocessable,
    )
    token = TokenEndpoint(
        keys=keys,
        clients=clients,
        failures=failures,
        lifetime=settings.token_lifetime,
        body_timeout=settings.body_timeout,
    )
    signs = signing.Signing(
        keys=keys,
        clients=clients,
        failures=failures,
        body_timeout=settings.body_timeout,
        public_url=settings.public_url,
    )
    turns = Turns(receiving=receive.is_busy)
    doors = _Doors(clients=clients, keys=keys, failures=failures, turns=turns, public_url=settings.public_url)
    urls: list[Route] = []
    table = _urls(doors, receive, token, Description(urls))
    urls += [route for route in table if route.path not in settings.closed_urls]

    tally, spans = Tally(), Spans()
    lifespan = Lifespan(
        settings=settings,
        clients=clients,
        log=log,
        tally=tally,
        spans=spans,
        turns=turns,
        known=known or Health(),
        publisher=publisher,
        handover=handover,
    )
    meter = publisher.meter if publisher else None
    line = Middleware(RequestLine, log=log, tally=tally, spans=spans, meter=meter)
    return Router([*urls, *_pages(doors, signs)], lifespan=lifespan.running, middleware=line)


def _urls(doors: "_Doors", receive: Receiver, token: TokenEndpoint, description: Description) -> list[Route]:
    """What programs ask for."""
    read, replaying = doors.bearer(Scope.READ), doors.bearer(Scope.REPLAY)
    return [
        Route("POST", "/webhooks/prioticket", receive, door=doors.basic(Scope.SEND)),
        Route("POST", "/oauth2/token", token, door=TOKEN_DOOR),
        Route("GET", "/api/events", events.list_page, door=read),
        Route("GET", "/api/events/stream", stream.stream, door=read),
        Route("GET", "/api/events/{event_id}", events.show, door=read),
        Route("GET", "/api/events/{event_id}/body", events.body, door=read),
        Route("POST", "/api/events/{event_id}/replay", replay.replay, door=replaying),
        Route("POST", "/api/events/{event_id}/release", quarantine.release_event, door=replaying),
        Route("GET", "/api/orders/{reference:path}", orders.show, door=read),
        Route("GET", "/api/deliveries", deliveries.list_page, door=replaying),
        Route("GET", "/api/deliveries/groups", groups.list_groups, door=replaying),
        Route("GET", "/api/deliveries/{delivery_id}", deliveries.show, door=replaying),
        Route("POST", "/api/deliveries/{delivery_id}/retry", deliveries.retry, door=replaying),
        Route("POST", "/api/deliveries/{delivery_id}/drop", deliveries.drop, door=replaying),
        Route("GET", "/api/destinations", destinations.show_all, door=replaying),
        Route("POST", "/api/destinations/{name:path}/pause", destinations.pause, door=replaying),
        Route("POST", "/api/destinations/{name:path}/resume", destinations.resume, door=replaying),
        Route("GET", "/api/replays", replays.list_page, door=replaying),
        Route("POST", "/api/replays", plans.create, door=replaying),
        Route("GET", "/api/replays/{replay_id}", replays.show, door=replaying),
        Route("POST", "/api/replays/{replay_id}/pause", replays.pause, door=replaying),
        Route("POST", "/api/replays/{replay_id}/resume", replays.resume, door=replaying),
        Route("POST", "/api/replays/{replay_id}/cancel", replays.cancel, door=replaying),
        Route("GET", "/api/status", status.show, door=read),
        Route("GET", "/api/alarms", alarms.show_all, door=read),
        Route("POST", "/api/erasures", erasures.erase_events, door=doors.bearer(Scope.ERASE)),
        Route("GET", "/api/audit", audit.list_page, door=read),
        Route("GET", "/healthz", health.healthz),
        Route("GET", "/readyz", health.readyz),
        Route("GET", "/openapi.json", description.document),
        Route("GET", "/docs", description.page),
    ]


def _pages(doors: "_Doors", signs: signing.Signing) -> list[Page]:
    """What people look at."""
    looking, acting = doors.session(Scope.CONSOLE), doors.session(Scope.REPLAY)
    return [
        Page("GET", SIGN_IN, signs.ask, door=OPEN_DOOR),
        Page("POST", SIGN_IN, signs.sign_in, door=OPEN_DOOR),
        Page("POST", "/console/sign-out", signing.sign_out, door=looking),
        Page("GET", "/console/static/{digest}/{name}", pages.asset),
        Page("GET", "/console", now.show, door=looking),
        Page("GET", "/console/stream", stream.stream, door=looking),
        Page("GET", "/console/find", finding.find, door=looking),
        Page("GET", "/console/orders/{reference:path}", order_pages.show, door=looking),
        Page("POST", "/console/orders/{reference:path}", order_pages.replay, door=acting),
        Page("GET", "/console/events", event_pages.list_page, door=looking),
        Page("GET", "/console/replays", replay_pages.list_page, door=looking),
        Page("GET", "/console/replays/new", replay_pages.new, door=acting),
        Page("POST", "/console/replays/new", replay_pages.start, door=acting),
        Page("GET", "/console/replays/{replay_id}", replay_pages.show, door=looking),
        Page("POST", "/console/replays/{replay_id}/pause", replay_pages.pause, door=acting),
        Page("POST", "/console/replays/{replay_id}/resume", replay_pages.resume, door=acting),
        Page("POST", "/console/replays/{replay_id}/cancel", replay_pages.cancel, door=acting),
        Page("POST", "/console/replays/{replay_id}/again", replay_pages.again, door=acting),
        Page("GET", "/console/audit", audit_page.list_page, door=looking),
        Page("GET", "/console/alarms", alarm_pages.show, door=looking),
        Page("GET", "/console/settings", settings_pages.show, door=looking),
        Page("GET", "/console/runbooks", runbooks.show, door=looking),
        Page("GET", "/console/events/{event_id}", event_pages.show, door=looking),
        Page("GET", "/console/events/{event_id}/body", events.body, door=doors.session(Scope.READ)),
        Page("POST", "/console/events/{event_id}/replay", event_pages.replay, door=acting),
        Page("POST", "/console/events/{event_id}/release", refused_pages.release, door=acting),
        Page("POST", "/console/quarantine", refused_pages.release_alike, door=acting),
        Page("POST", "/console/erasures", erasure_pages.erase, door=doors.session(Scope.ERASE)),
        Page("GET", "/console/deliveries", delivery_pages.list_page, door=looking),
        Page("GET", "/console/deliveries/groups", group_pages.list_page, door=looking),
        Page("GET", "/console/deliveries/group", group_pages.show, door=looking),
        Page("POST", "/console/deliveries/group/retry", group_pages.retry, door=acting),
        Page("POST", "/console/deliveries/group/drop", group_pages.drop, door=acting),
        Page("GET", "/console/deliveries/{delivery_id}", delivery_pages.show, door=looking),
        Page("POST", "/console/deliveries/{delivery_id}/retry", delivery_pages.retry, door=acting),
        Page("POST", "/console/deliveries/{delivery_id}/drop", delivery_pages.drop, door=acting),
        Page("GET", "/console/destinations", destination_pages.list_page, door=looking),
        Page("GET", "/console/destinations/{name:path}", destination_pages.show, door=looking),
        Page("POST", "/console/destinations/{name:path}/pause", destination_pages.pause, door=acting),
        Page("POST", "/console/destinations/{name:path}/resume", destination_pages.resume, door=acting),
        Page("POST", "/console/destinations/{name:path}/test", destination_pages.test, door=acting),
        Page("GET", "/console/{path:path}", pages.nothing, door=looking),
    ]


TOKEN_DOOR = Door(scheme="basic", middleware=Middleware(TokenDoor), errors=TokenError)
"""Says in the words of OAuth what is wrong. The endpoint checks the credential itself."""

OPEN_DOOR = Door(scheme="session", middleware=Middleware(OpenDoor))
"""For anyone, to sign in."""


@dataclass(frozen=True, kw_only=True)
class _Doors:
    """Makes the doors: who comes in with a credential that has a scope."""

    clients: Clients
    keys: Sequence[bytes]
    failures: Limit
    turns: Turns
    public_url: str | None

    def basic(self, scope: Scope) -> Door:
        """With username and password."""
        door = Middleware(BasicDoor, clients=self.clients, failures=self.failures, scope=scope)
        return Door(scheme="basic", scope=scope, problems=BASIC_PROBLEMS, middleware=door)

    def bearer(self, scope: Scope) -> Door:
        """With a token."""
        door = Middleware(BearerDoor, keys=self.keys, clients=self.clients, failures=self.failures, scope=scope)
        problems = (*BEARER_PROBLEMS, TooManyRequests)
        return Door(scheme="bearer", scope=scope, problems=problems, middleware=door, behind=self._in_turn)

    def session(self, scope: Scope) -> Door:
        """With the cookie of the console."""
        door = Middleware(SessionDoor, keys=self.keys, clients=self.clients, scope=scope, public_url=self.public_url)
        return Door(scheme="session", scope=scope, middleware=door, behind=self._in_turn)

    @property
    def _in_turn(self) -> Middleware:
        return Middleware(InTurn, turns=self.turns)
