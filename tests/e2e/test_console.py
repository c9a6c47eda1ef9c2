"""The console in a real browser, before a real `priohook serve` with its worker and two consumers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from app.settings.clients import Scope
from tests.conftest import CLIENTS, SECRET, TOKEN_KEY, WEBHOOK, basic_header, bearer_header, payload
from tests.e2e.browser import (
    NARROW,
    WIDE,
    Chromium,
    barriers,
    chromium,
    not_by_keyboard,
    screenshot,
    too_wide,
)
from tests.e2e.conftest import ENDS_WITHIN, Served, configured, environment_for
from tests.e2e.consumer import Consumer

PAGES = {
    "sign-in": "/console/sign-in",
    "now": "/console",
    "events": "/console/events?limit=20",
    "refused": "/console/events?status=quarantined",
    "event": "/console/events/{event}?contents=true",
    "refused-event": "/console/events/{refused}?contents=true",
    "order": "/console/orders/{order}",
    "deliveries": "/console/deliveries?limit=20",
    "failing": "/console/deliveries?failing=true",
    "groups": "/console/deliveries/groups",
    "group": "/console/deliveries/group?destination=gate&status=pending&outcome=refused&answer=500",
    "delivery": "/console/deliveries/{delivery}",
    "destinations": "/console/destinations",
    "destination": "/console/destinations/gate",
    "replays": "/console/replays",
    "new-replay": "/console/replays/new?type=ORDER_CREATE&to=erp&plan=true",
    "replay": "/console/replays/{replay}",
    "alarms": "/console/alarms",
    "audit": "/console/audit",
    "settings": "/console/settings",
    "runbooks": "/console/runbooks",
    "docs": "/docs",
}
"""Each page once; what is in braces, `House.known` has."""

LOOKED_AT = {"docs": "main > :nth-child(-n+60)"}
"""Where axe looks, if that is not the whole page. A long one whose parts are all alike takes it many seconds."""

LIVE = 150_000.0  # milliseconds; a console rests for a minute at most
HREFS = "found => found.map((link) => link.getAttribute('href'))"
CLICKS = """async (button) => {
    for (let click = 0; click < 3; click++) {
        button.click();
        await new Promise((later) => setTimeout(later, 100));
    }
}"""
ORDER = "PRI26081200417"  # of the samples
CUT_OFF = b'{"api_version": "3.8", "data": {"kind": "order", "order": {"order_reference": "<b>PRI1", }}}'
BREAKS_OUT = "\"'><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e{{7*7}}"
expect.set_options(timeout=60_000)


class House:
    """A receiver with a worker and two consumers, and what is in it.

    Attributes:
        known: Ids and references of what is there, by the names in `PAGES`.
    """

    def __init__(self, folder: Path, good: Consumer, bad: Consumer) -> None:
        self.folder = folder
        self.good, self.bad = good, bad
        destinations = {"erp": {"url": good.url}, "gate": {"url": bad.url, "events": ["ORDER_*"]}}
        self.settings = configured(
            "sqlite+aiosqlite:///priohook.db", destinations=json.dumps(destinations), token_keys=TOKEN_KEY
        )
        self.known: dict[str, str] = {}
        self.server = self._start("0")
        self.url = f"http://127.0.0.1:{self.server.address[1]}"

    def _start(self, port: str, **changes: str) -> Served:
        environment = environment_for(**self.settings | changes)
        return Served(self.folder, ("--port", port), environment, with_worker=True)

    def stop(self) -> None:
        self.server.close()

    def start(self, **changes: str) -> None:
        """Starts it again, at the same port."""
        self.server = self._start(str(self.server.address[1]), **changes)

    def send(self, body: bytes, **headers: str) -> str:
        """Sends an event, and returns its id."""
        reply = httpx2.post(self.url + WEBHOOK, content=body, headers=basic_header() | headers, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.headers["Event-Id"]

    def refuse(self, body: bytes) -> str:
        """Sends an event that is not declared as JSON, and returns its id."""
        reply = httpx2.post(self.url + WEBHOOK, content=body, headers=basic_header() | {"Content-Type": "text/plain"})
        assert reply.status_code == 415, reply.text
        return self.newest(status="quarantined")[0]

    def newest(self, **query: str) -> list[str]:
        """The ids of the newest events."""
        return [event["id"] for event in self.ask("/api/events", **query)["events"]]

    def ask(self, path: str, **query: str) -> Any:
        """What the API answers."""
        headers = bearer_header("operator", Scope.READ, Scope.REPLAY)
        return httpx2.get(self.url + path, params=query, headers=headers, timeout=60).json()

    def replay(self, **fields: Any) -> str:
        """Starts a replay, and returns its id."""
        headers = bearer_header("operator", Scope.REPLAY)
        reply = httpx2.post(f"{self.url}/api/replays", json={"to": "erp", **fields}, headers=headers, timeout=60)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["replay"]["id"])

    def command(self, *arguments: str) -> str:
        """Runs a command to its end, and returns what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=self.folder,
            env=environment_for(**self.settings),
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fill(self) -> None:
        """Lets a simulated Prioticket send orders, and somebody else what is to do harm."""
        self.known["order"] = ORDER
        for name in ("07-order-payload-pending", "08-order-payload-confirmed", "10-order-payload-cancelled"):
            self.known["event"] = self.send(payload(name), **{"Content-Type": "application/json"})
        arguments = ("--count", "60", "--duplicates", "0.1", "--out-of-order", "0.1", "--bad", "0.1", "--seed", "5")
        self.command("simulate", self.url, "--user", f"prioticket:{SECRET}", *arguments)
        httpx2.post(self.url + WEBHOOK, content=CUT_OFF, headers=basic_header(), timeout=60)
        (self.known["refused"],) = self.newest(status="quarantined", limit="1")
        for replay in ({"filter": {"reference": ORDER}, "rate": 1000}, {"filter": {}, "rate": 0.05}):
            self.known["replay"] = self.replay(**replay, reason="ticket 4711")
        self.good.until(lambda: len({each.event_id for each in self.good.delivered()}) > 60)
        self.bad.until(lambda: len(self.bad.seen) > 3)
        failing = self.ask("/api/deliveries", failing="true", destination="gate", limit="1")
        self.known["delivery"] = failing["deliveries"][0]["id"]


def hostile() -> bytes:
    """An order whose texts try to become a part of the page."""
    sample: dict[str, Any] = json.loads(payload("08-order-payload-confirmed"))
    order = sample["data"]["order"]
    order["order_reference"] = BREAKS_OUT
    order["order_status"] = "ORDER_<b>CONFIRMED"
    order["order_contacts"][0]["contact_name_first"] = BREAKS_OUT
    return json.dumps(sample).encode()


def event_of(reference: str, name: str = "ORDER_UPDATE") -> bytes:
    """A notification without payload."""
    notification = {"notification_event": name, "notification_item_id": reference}
    return json.dumps({"api_version": "3.8", "data": {"kind": "notification", "notification": notification}}).encode()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Consumer().running() as good, Consumer(answer=lambda *_: 500).running() as bad:
        house = House(tmp_path_factory.mktemp("house"), good, bad)
        try:
            house.fill()
            yield house
        finally:
            house.stop()


@pytest.fixture(scope="module")
def browser_of_all(house: House) -> Iterator[Chromium]:
    with chromium(house.url) as browser:
        yield browser


@pytest.fixture
def browser(browser_of_all: Chromium) -> Iterator[Chromium]:
    """The browser; at the end of each test nothing has gone wrong in it."""
    yield browser_of_all
    wrong = browser_of_all.wrong
    browser_of_all.close_all()
    assert wrong == []


@pytest.fixture
def desk(browser: Chromium) -> Page:
    """A page of someone who may do everything."""
    return browser.visitor("desk")


@pytest.fixture
def shots(pytestconfig: pytest.Config) -> Path | None:
    """Where screenshots go, if any are wanted."""
    given = pytestconfig.getoption("--screenshots")
    return pytestconfig.invocation_params.dir / given if given else None


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_use_the_page(house, browser, shots, name, width):
    page = browser.visitor(None, width=width) if name == "sign-in" else browser.reader(width=width)
    page.goto(PAGES[name].format(**house.known))
    assert page.get_by_role("heading", level=1).count() == 1
    assert too_wide(page) == []
    within = LOOKED_AT.get(name, "body")
    found = barriers(page, within=within)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        if scheme == "dark" and width == WIDE:
            found += barriers(page, only_contrast=True, within=within)
        if shots:
            screenshot(page, shots, f"{name}-{width}-{scheme}")
    assert found == []
    assert not_by_keyboard(page) == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "sign-in"])
def test_the_page_says_the_same_without_script(house, browser, name):
    with_script, without = browser.reader(), browser.reader(script=False)
    headings = []
    for page in (with_script, without):
        page.goto(PAGES[name].format(**house.known))
        headings.append(page.locator("h1, h2").all_inner_texts())
    assert headings[0] == headings[1]
    assert headings[1]


def test_keys_find_move_and_open(desk):
    desk.goto("/console/events")
    rows = desk.locator("tbody tr")
    for key, chosen in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        desk.keyboard.press(key)
        expect(rows.nth(chosen)).to_contain_class("chosen")
    wanted = rows.nth(1).get_by_role("link").first.get_attribute("href")
    desk.keyboard.press("Enter")
    desk.wait_for_url(f"**{wanted}")
    desk.go_back()
    desk.keyboard.press("/")
    expect(desk.get_by_label("Find an order or event")).to_be_focused()
    desk.keyboard.type("jk/")
    expect(desk.get_by_label("Find an order or event")).to_have_value("jk/")


def test_without_script_somebody_signs_in_searches_and_signs_out(browser):
    page = browser.visitor(None, script=False)
    page.goto("/console/events?type=ORDER_CANCEL")
    page.get_by_label("Client").fill("onlooker")
    page.get_by_label("Secret").fill(SECRET)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Type")).to_have_value("ORDER_CANCEL")
    page.get_by_label("Type").fill("")
    page.get_by_label("Reference").fill(ORDER)
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")


def test_a_wrong_secret_is_told_and_the_right_one_lets_in(browser):
    page = browser.visitor(None)
    browser.sign_in(page, "desk", "not-the-secret")
    expect(page.get_by_role("alert")).to_contain_text("not those of a client")
    assert barriers(page) == []
    page.get_by_label("Secret").fill(SECRET)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Now")


def test_after_signing_out_the_back_button_shows_nothing(browser):
    page = browser.visitor(None)
    browser.sign_in(page, "desk")
    page.goto("/console/events")
    expect(page.locator("tbody tr").first).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert page.locator("tbody tr").count() == 0


@contextmanager
def another_site(target: str) -> Iterator[str]:
    """A page on another port, whose form goes to the console, and which has the console in a frame."""
    content = (
        f"<form method=post action='{target}'><input name=form_token value=0><button>Win</button></form>"
        f"<iframe src='{target}'></iframe>"
    ).encode()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_form_of_another_site_does_nothing_and_it_cannot_frame_the_console(house, browser, desk):
    """Another port of the same host is the same site to a browser, so SameSite does not keep the cookie from going."""
    browser.forgiven = ("elsewhere", "Refused to frame", "Framing", "Failed to load resource")
    replay = f"{house.url}/console/replays/{house.known['replay']}"
    with another_site(f"{replay}/cancel") as elsewhere:
        desk.goto(elsewhere)
        assert "priohook" not in desk.frames[1].content()
        desk.get_by_role("button", name="Win").click()
        expect(desk.get_by_role("heading", level=1)).to_contain_text("not sent by a page of this console")
    desk.goto(replay)
    expect(desk.get_by_text("running", exact=True)).to_be_visible()


@pytest.fixture(scope="module")
def known_of_hostile(house: House) -> dict[str, str]:
    """What `House.known` has, with an event and an order whose texts try to become a part of the page."""
    event_id = house.send(hostile(), **{"Content-Type": "application/json", "X-Note": "'\"><b>bold"})
    house.good.until(lambda: event_id in {each.event_id for each in house.good.delivered()})
    delivery = house.ask("/api/deliveries", event_id=event_id, destination="gate")["deliveries"][0]["id"]
    return house.known | {"event": event_id, "order": quote(BREAKS_OUT, safe=""), "delivery": delivery}


@pytest.mark.parametrize("name", [name for name in PAGES if name != "sign-in"])
def test_hostile_text_stays_text(browser, known_of_hostile, name):
    page = browser.reader(width=NARROW)
    page.goto(PAGES[name].format(**known_of_hostile))
    assert page.locator("img[src=x], main b, main script").count() == 0
    assert page.title() != "owned"
    assert "\u202e" not in page.title()
    assert too_wide(page) == []


def act(page: Page, name: str, *, button: str | None = None, reason: str = "ticket 4711") -> None:
    """Unfolds an action, gives a reason, and does it."""
    action = page.locator("details.action").filter(has=page.get_by_text(name, exact=True))
    action.locator("summary").click()
    action.get_by_label("Reason").fill(reason)
    action.get_by_role("button", name=button or name).click()


def test_a_replay_is_planned_started_and_controlled_by_clicking(desk):
    desk.goto("/console/replays")
    desk.get_by_role("link", name="New replay").click()
    desk.get_by_label("Reference").fill(ORDER)
    desk.get_by_role("combobox", name="To").select_option("erp")
    desk.get_by_label("A second, at most").fill("0.01")
    desk.get_by_role("button", name="Show the plan").click()
    expect(desk.get_by_text("3 to erp")).to_be_visible()
    desk.get_by_label("Reason").fill("ticket 4711")
    sent: list[Route] = []
    desk.route("**/replays/new?*", lambda each: sent.append(each))  # noqa: PLW0108 - Playwright sets an attribute
    desk.get_by_role("button", name="Replay 3 events to erp").evaluate(CLICKS)
    (form,) = sent
    form.continue_()
    expect(desk.get_by_role("status").first).to_contain_text("The replay is running.")
    act(desk, "Pause")
    expect(desk.get_by_role("status").first).to_contain_text("is paused")
    act(desk, "Resume")
    expect(desk.get_by_role("status").first).to_contain_text("goes on")
    act(desk, "Cancel", button="Cancel the replay")
    expect(desk.get_by_role("status").first).to_contain_text("is cancelled")
    desk.get_by_role("link", name="by whom and why").click()
    expect(desk.locator("tbody tr")).to_have_count(4)
    expect(desk.locator("tbody tr").first).to_contain_text("ticket 4711")


def test_an_event_that_was_refused_is_let_in_by_clicking(house, desk):
    refused = house.refuse(event_of("PRI-REFUSED"))
    desk.goto("/console/events?status=quarantined")
    desk.locator(f"a[href$='{refused}']").first.click()
    act(desk, "Release it", button="Judge it again and let it in")
    expect(desk.get_by_role("status").first).to_contain_text("The event is accepted")
    house.good.until(lambda: "PRI-REFUSED" in {each.reference for each in house.good.delivered()})


def test_an_order_is_found_replayed_from_a_version_on_and_erased_by_clicking(house, desk):
    house.send(event_of("PRI-STORY"), **{"Content-Type": "application/json"})
    desk.goto("/console")
    desk.keyboard.press("/")
    desk.keyboard.type("PRI-STORY\n")
    expect(desk.get_by_role("heading", level=1)).to_contain_text("PRI-STORY")
    action = desk.locator("details.action").first
    action.locator("summary").click()
    action.get_by_role("combobox").select_option("erp")
    action.get_by_role("button").click()
    expect(desk.get_by_role("status").first).to_be_visible()
    house.good.until(lambda: [each.reference for each in house.good.delivered()].count("PRI-STORY") == 2)
    desk.goto("/console/orders/PRI-STORY")
    erasing = desk.locator("details.action").last
    erasing.locator("summary").click()
    erasing.get_by_label("Type the reference").fill("PRI-STORY")
    erasing.get_by_label("Drop what is not delivered yet").check()
    erasing.get_by_role("button").click()
    expect(desk.get_by_role("heading", level=1)).to_contain_text("rased")


def test_the_live_list_has_every_event_once_across_a_restart(house, browser, desk):
    browser.forgiven = ("Failed to load resource: net::",)
    desk.goto("/console/events")
    before = links(desk)
    sent = [house.send(event_of(f"PRI-LIVE-{number}"), **{"Content-Type": "application/json"}) for number in range(3)]
    news = desk.get_by_role("button", name="new events")
    expect(news).to_have_text("3 new events", timeout=LIVE)
    assert links(desk) == before, "nothing moves"
    house.stop()
    house.start()
    sent += [
        house.send(event_of(f"PRI-LIVE-{number}"), **{"Content-Type": "application/json"}) for number in range(3, 5)
    ]
    expect(news).to_have_text("5 new events", timeout=LIVE)
    news.click()
    assert links(desk)[:5] == sent[::-1]
    assert links(desk) == house.newest()[:50]


def links(page: Page) -> list[str]:
    """The ids of the events that a list shows, in its order."""
    return [str(link).rpartition("/")[2] for link in page.locator("tbody tr > td:first-child a").evaluate_all(HREFS)]


def test_a_session_ends_when_its_clients_secret_is_another_one(tmp_path, browser):
    clients = CLIENTS | {"desk": {"secret": "another-secret-for-the-desk", "scopes": ["console"]}}
    settings = configured(f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}")
    server = Served(tmp_path, ("--port", "0"), environment_for(**settings))
    page = browser.visitor(None)
    browser.forgiven = ("elsewhere", "Failed to load resource: net::")
    try:
        page.goto(f"{server.url}/console")
        page.get_by_label("Client").fill("desk")
        page.get_by_label("Secret").fill(SECRET)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Now")
        server.close()
        changed = environment_for(**settings | {"clients": json.dumps(clients)})
        server = Served(tmp_path, ("--port", str(server.address[1])), changed)
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    finally:
        server.close()


def test_the_first_page_is_renewed_and_stays_as_one_left_it(house, desk):
    desk.goto("/console")
    desk.get_by_text("As a table").click()
    last = desk.get_by_role("region", name="Last event by type").get_by_role("row", name="ORDER_CREATE").locator("time")
    before = last.get_attribute("datetime")
    assert before
    desk.get_by_role("link", name="All alarms").focus()
    house.send(event_of("PRI-LIVE-1", "ORDER_CREATE"))
    expect(last).not_to_have_attribute("datetime", before)
    expect(desk.get_by_role("table", name="Events a minute, by hour")).to_be_visible()
    expect(desk.get_by_role("link", name="All alarms")).to_be_focused()
    assert last.inner_text() != f"{last.get_attribute('title')}"


def test_nothing_is_renewed_where_somebody_types(house, desk):
    desk.goto("/console")
    desk.evaluate("""() => {
        const field = document.createElement("input");
        document.querySelector("#as-of").append(field);
        field.focus();
    }""")
    desk.keyboard.type("half a wo")
    seen = desk.locator("#as-of time").get_attribute("datetime")
    renewed(desk)
    renewed(desk)
    assert desk.locator("#as-of input").input_value() == "half a wo"
    assert desk.locator("#as-of time").get_attribute("datetime") == seen


def test_new_events_are_announced_and_shown_when_one_asks(house, desk):
    desk.goto("/console/events")
    rows = desk.locator("tbody tr")
    first = rows.first.inner_text()
    desk.keyboard.press("j")
    sent = [house.send(event_of(f"PRI-NEW-{number}")) for number in range(2)]
    expect(desk.get_by_role("button", name="2 new events")).to_be_visible()
    assert rows.first.inner_text() == first
    expect(rows.first).to_contain_class("chosen")
    assert barriers(desk) == []
    desk.get_by_role("button", name="2 new events").click()
    expect(rows.nth(2)).to_have_text(re.compile(re.escape(first.split()[-1])))
    links = [row.get_by_role("link").first.get_attribute("href") for row in rows.all()]
    assert links[:2] == [f"/console/events/{each}" for each in reversed(sent)]
    assert len(set(links)) == len(links)
    expect(desk.get_by_role("button", name="new event")).to_have_count(0)


def test_a_list_goes_on_by_itself_when_the_receiver_is_back(house, browser, desk):
    browser.forgiven = ("Failed to load resource",)
    desk.goto("/console/events")
    links = "[...document.querySelectorAll('tbody tr')].map(row => row.querySelector('a').getAttribute('href'))"
    before = desk.evaluate(links)
    house.stop()
    expect(desk.locator(".notice")).to_contain_text("Not connected since")
    house.start()
    sent = [f"/console/events/{house.send(event_of(f'PRI-BACK-{number}'))}" for number in range(3)]
    expect(desk.get_by_role("button", name="3 new events")).to_be_visible(timeout=LIVE)
    expect(desk.locator(".notice")).to_have_count(0)
    assert desk.evaluate(links) == before
    desk.get_by_role("button", name="3 new events").click()
    assert desk.evaluate(links) == [*reversed(sent), *before][: len(before)]


def test_a_tab_that_nobody_sees_asks_for_nothing(house, browser):
    page = browser.visitor("desk")
    page.clock.install()
    page.goto("/console")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = "hidden => { Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    asked.clear()
    page.clock.run_for(600_000)
    house.send(event_of("PRI-UNSEEN"))
    assert asked == []
    with page.expect_response("**/console"):
        page.evaluate(hide, False)


def renewed(page: Page) -> None:
    """Returns when the page has asked for itself once more."""
    with page.expect_response("**/console"):
        pass


def test_somebody_finds_why_an_order_is_missing_at_the_gate(house, desk):
    desk.goto("/console")
    desk.keyboard.press("/")
    desk.keyboard.type(ORDER)
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("heading", level=1)).to_contain_text(ORDER)
    gate = desk.get_by_role("row").filter(has_text="gate").first
    expect(gate).to_contain_text("Failing: attempt")
    expect(gate).to_contain_text("met 500")
    expect(desk.get_by_text("Booking BKG26081200417A: PROCESSING_CONFIRMATION → CONFIRMED")).to_be_visible()


def test_somebody_lets_in_what_was_refused_last_night(house, browser):
    refused = payload("08-order-payload-confirmed").replace(ORDER.encode(), b"PRI-LAST-NIGHT")
    headers = basic_header() | {"Content-Type": "text/plain"}
    assert httpx2.post(house.url + WEBHOOK, content=refused, headers=headers, timeout=60).status_code == 415
    page = browser.visitor("desk")
    page.goto("/console/events")
    page.get_by_role("link", name="What was refused").click()
    row = page.get_by_role("row").filter(has_text="The content type is not JSON.").first
    row.get_by_text("Release all").click()
    row.get_by_label("Reason").fill("The proxy sent the wrong type.")
    row.get_by_role("button", name="again").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Judged again")
    page.get_by_label("Find an order or event").fill("PRI-LAST-NIGHT")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("PRI-LAST-NIGHT")


def test_from_the_first_page_somebody_finds_which_consumer_fails_pauses_tests_and_resumes_it(desk):
    def do(name: str, **fields: str) -> None:
        desk.locator("summary", has_text=name).click()
        form = desk.locator("details[open]", has=desk.locator("summary", has_text=name))
        for label, value in fields.items():
            form.get_by_label(label).fill(value)
        form.get_by_role("button", name=name).click()

    desk.goto("/console")
    desk.get_by_role("link", name="gate", exact=True).first.click()
    expect(desk.get_by_role("heading", level=1)).to_have_text("gate")
    expect(desk.locator(".state")).to_contain_text("failing")
    do("Pause", Reason="We repair it <b>now</b>.")
    expect(desk.get_by_role("status")).to_contain_text("is paused")
    expect(desk.locator(".state")).to_contain_text("by desk: We repair it <b>now</b>.")
    do("Send a test event")
    expect(desk.get_by_role("heading", level=1)).to_have_text("gate did not take the test event")
    expect(desk.locator("main")).to_contain_text("refused")
    assert barriers(desk) == []
    desk.get_by_role("link", name="Back to gate").click()
    do("Resume")
    expect(desk.get_by_role("status")).to_contain_text("is resumed")


def test_from_what_waits_somebody_reaches_what_it_waits_for_and_retries_that(desk):
    desk.goto("/console/deliveries")
    desk.get_by_role("link", name="Waiting").click()
    desk.locator("tbody tr", has_text="waits behind").first.get_by_role("link").first.click()
    desk.get_by_role("link", name="another delivery").click()
    expect(desk.locator(".state")).to_contain_text("behind it")
    desk.locator("summary", has_text="Retry").click()
    desk.get_by_role("button", name="Retry").click()
    expect(desk.get_by_role("status")).to_contain_text("is tried again")
