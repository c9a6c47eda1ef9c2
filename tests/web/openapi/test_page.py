import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from app.web.openapi.page import page
from tests.web.openapi.test_document import DOCUMENT

VOID = {"meta", "br"}


class Outline(HTMLParser):
    """What a browser would see: attributes by name, and whether each element is closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.found: dict[str, list[str | None]] = {}
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.found.setdefault("tag", []).append(tag)
        for name, value in attrs:
            self.found.setdefault(name, []).append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
async def client(start, sqlite_url):
    async with start(sqlite_url) as client:
        yield client


async def test_the_page_is_whole_and_each_of_its_links_leads_somewhere(client):
    seen = Outline((await client.get("/docs")).text)
    assert seen.open == []
    assert {str(href).removeprefix("#") for href in seen.found["href"]} <= set(seen.found["id"])


async def test_the_page_shows_every_url_and_every_model(client):
    text = (await client.get("/docs")).text
    assert {path for path in DOCUMENT["paths"] if path not in text} == set()
    assert {name for name in DOCUMENT["components"]["schemas"] if f'id="{name}"' not in text} == set()


async def test_the_page_needs_no_script_and_nothing_from_elsewhere(client):
    seen = Outline((await client.get("/docs")).text)
    assert not {"script", "link", "img", "iframe"} & set(seen.found["tag"])
    assert not {"src", "style", "onclick"} & set(seen.found)


async def test_the_pages_policy_allows_its_own_style_alone(client):
    reply = await client.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", reply.text, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = reply.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")


def test_no_text_of_the_document_becomes_markup():
    document = json.loads(json.dumps(DOCUMENT).replace("Receive a webhook", "<script>"))
    assert "<script>" not in page(document, styles="")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_who_has_the_current_version_is_told_so(client, path):
    first = await client.get(path)
    again = await client.get(path, headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})
    other = await client.get(path, headers={"If-None-Match": '"other"'})
    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.content) == (200, first.content)
    assert "max-age" in again.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_a_closed_url_is_not_there(start, sqlite_url, path):
    async with start(sqlite_url, closed_urls=[path]) as client:
        assert (await client.get(path)).status_code == 404
        assert (await client.get("/healthz")).status_code == 200
        assert path not in (await client.get("/openapi.json")).text


async def test_the_document_says_what_is_there(client):
    assert (await client.get("/openapi.json")).json() == DOCUMENT


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_no_host_changes_the_description(client, path):
    assert (await client.get(path, headers={"Host": "evil.example"})).content == (await client.get(path)).content
