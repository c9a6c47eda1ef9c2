"""A real Chromium in which nothing goes wrong unseen: errors, forbidden content, requests to anywhere else."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, sync_playwright

from tests.conftest import SECRET

PATIENCE = 60_000.0  # milliseconds; a bound for a slow machine, never waited for
WIDE, NARROW = 1600, 360
HEIGHTS = {WIDE: 1000, NARROW: 800}
TALLEST = {WIDE: 1400, NARROW: 2400}
"""Of a screenshot, in pixels."""

SAYS_WHAT_IS_FORBIDDEN = (
    "document.addEventListener('securitypolicyviolation',"
    " event => console.error(`forbidden: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`))"
)
FOCUSABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
REMEMBERS_FOCUS = """
    window.focused = new Set(); window.unseen = [];
    document.addEventListener("focusin", ({ target }) => {
        focused.add(target);
        if (getComputedStyle(target).outlineStyle === "none") unseen.push(target.outerHTML.slice(0, 200));
    });
"""
NEVER_FOCUSED = f"""
    [...document.querySelectorAll("{FOCUSABLE}")]
        .filter((each) => each.checkVisibility() && !each.disabled && !focused.has(each))
        .map((each) => each.outerHTML.slice(0, 200))
"""
TOO_WIDE = """
    [...document.querySelectorAll("body *")]
        .filter((each) => each.getBoundingClientRect().right > window.innerWidth + 1
            && each.getBoundingClientRect().width > 1 && !each.closest(".scroll, pre, svg"))
        .map((each) => each.outerHTML.slice(0, 200))
"""


class Chromium:
    """One browser for many visitors of one console."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.wrong: list[str] = []
        """What went wrong since the last test."""
        self.forgiven: tuple[str, ...] = ()
        """Beginnings of errors that a test causes on purpose."""
        self._browser = browser
        self._open: list[BrowserContext] = []
        self._signed_in: dict[str, Any] = {}
        self._readers: dict[tuple[int, bool], Page] = {}

    def visitor(
        self, client: str | None = "desk", *, width: int = WIDE, scheme: Any = "light", script: bool = True
    ) -> Page:
        """A page of someone who is signed in as this client, or as nobody."""
        if client is not None and client not in self._signed_in:
            self.sign_in(page := self.visitor(None), client)
            self._signed_in[client] = page.context.storage_state()
        context = self._browser.new_context(
            base_url=self.url,
            viewport={"width": width, "height": HEIGHTS[width]},
            color_scheme=scheme,
            java_script_enabled=script,
            locale="en-GB",
            timezone_id="Europe/Amsterdam",
            storage_state=self._signed_in.get(client or ""),
        )
        context.set_default_timeout(PATIENCE)
        self._open.append(context)
        if script:
            context.add_init_script(SAYS_WHAT_IS_FORBIDDEN)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.wrong.append(f"error: {error.error}"))
        context.on("request", self._asked)
        context.on("response", self._answered)
        return context.new_page()

    def reader(self, *, width: int = WIDE, script: bool = True) -> Page:
        """A page of someone who is signed in and changes nothing: the same one in all tests.

        A new context is a new process of the browser, which takes longer than to read a page.
        """
        if (width, script) not in self._readers:
            self._readers[width, script] = self.visitor(width=width, script=script)
            self._open.pop()
        page = self._readers[width, script]
        page.emulate_media(color_scheme="light")
        return page

    def sign_in(self, page: Page, client: str, secret: str = SECRET) -> None:
        """Fills in the page to sign in."""
        page.goto("/console/sign-in")
        page.get_by_label("Client").fill(client)
        page.get_by_label("Secret").fill(secret)
        page.get_by_role("button", name="Sign in").click()

    def forget(self, client: str) -> None:
        """The session of this client is not used by later visitors."""
        self._signed_in.pop(client, None)

    def close_all(self) -> None:
        for context in self._open:
            context.close()
        for page in self._readers.values():
            if page.url != "about:blank":
                page.goto("about:blank")
        self._open, self.wrong, self.forgiven = [], [], ()

    def _said(self, message: ConsoleMessage) -> None:
        # Which answers are errors, `_answered` knows better: a page may well be a 401.
        if message.type in ("error", "warning") and not message.text.startswith(
            ("Failed to load resource: the server responded", *self.forgiven)
        ):
            self.wrong.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc and "elsewhere" not in self.forgiven:
            self.wrong.append(f"request that leaves the origin: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.wrong.append(f"{response.status}: {response.url}")


@contextmanager
def chromium(url: str) -> Iterator[Chromium]:
    """Debian's Chromium, for visitors of this console."""
    root = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=root, timeout=PATIENCE)
        yield Chromium(browser, url)
        browser.close()


def barriers(page: Page, *, only_contrast: bool = False, within: str = "body") -> list[str]:
    """What axe finds that keeps people from using the page, or the elements of it that a selector names."""
    options = {"runOnly": ["color-contrast"]} if only_contrast else None
    found = Axe().run(page, context={"include": [[within]]}, options=options).response["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]


def too_wide(page: Page) -> list[str]:
    """What reaches beyond the right border of the window; what scrolls by itself may."""
    found: list[str] = page.evaluate(TOO_WIDE)
    if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        found.append(f"the page: {page.evaluate('document.documentElement.scrollWidth')} pixels")
    return found


def not_by_keyboard(page: Page) -> list[str]:
    """What the tab key does not reach, or reaches without showing it."""
    page.evaluate(REMEMBERS_FOCUS)
    left: list[str] = page.evaluate(NEVER_FOCUSED)
    while left:
        for _ in range(len(left) + 3):  # the page's border and what scrolls take some too
            page.keyboard.press("Tab")
        before, left = left, page.evaluate(NEVER_FOCUSED)
        if left == before:
            break
    unseen: list[str] = page.evaluate("unseen")
    return left + unseen


def screenshot(page: Page, folder: Path, name: str) -> None:
    """Writes the page as a PNG file, as far down as anyone would look."""
    folder.mkdir(parents=True, exist_ok=True)
    width = page.evaluate("window.innerWidth")
    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST[width])
    page.screenshot(
        path=folder / f"{name}.png",
        full_page=True,
        animations="disabled",
        clip={"x": 0, "y": 0, "width": width, "height": height},
    )
