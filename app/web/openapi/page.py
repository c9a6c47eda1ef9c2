"""Serves the description: one page of plain HTML without scripts, and the OpenAPI document."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.web.etags import CURRENT, TAGGED, tagged
from app.web.openapi.document import describe
from app.web.openapi.operations import Answer, Operation, Route
from app.web.response_headers import page_policy

FRESH_FOR = 300  # seconds; after an upgrade the new description is soon seen
CACHEABLE = {"Cache-Control": f"public, max-age={FRESH_FOR}"}


FIRST_STEPS = """\
<p>Get a token with the name and secret of a client, then send it with every request to <code>/api</code>:</p>
<pre>PRIOHOOK=https://your-host
TOKEN=$(curl --silent --user NAME:SECRET --data grant_type=client_credentials $PRIOHOOK/oauth2/token \
| python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
curl --header "Authorization: Bearer $TOKEN" $PRIOHOOK/api/events</pre>
"""


class Description:
    """The description of a URL table, as a document and as a page; each is made once, at its first request."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    @Operation(
        tag="description",
        answers={200: Answer(description="An OpenAPI 3.1 document.", headers=TAGGED), 304: CURRENT},
    )
    async def document(self, request: Request[Any]) -> Response:
        """This description, for programs."""
        return tagged(request, self._json, "application/json", CACHEABLE)

    @Operation(
        tag="description",
        answers={200: Answer(description="A page.", media_type="text/html", headers=TAGGED), 304: CURRENT},
    )
    async def page(self, request: Request[Any]) -> Response:
        """This description, for people."""
        content, policy = self._page
        return tagged(request, content, "text/html", {**CACHEABLE, "Content-Security-Policy": policy})

    @cached_property
    def _described(self) -> dict[str, Any]:
        return describe(self._routes)

    @cached_property
    def _json(self) -> bytes:
        return json.dumps(self._described, ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def _page(self) -> tuple[bytes, str]:
        styles = files("app.web.openapi").joinpath("docs.css").read_text("utf-8")
        digest = b64encode(sha256(styles.encode()).digest()).decode()
        return page(self._described, styles=styles).encode(), page_policy(styles=f"'sha256-{digest}'")


def page(document: dict[str, Any], *, styles: str) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    operations = [
        (method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    contents = [
        f'<li><a href="#{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></a> '
        f"{escape(operation['summary'])}</li>"
        for method, path, operation in operations
    ]
    schemas = document["components"]["schemas"]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta name="viewport" content="width=device-width"><title>{escape(info["title"])}</title>',
            f"<style>{styles}</style></head><body>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            *_paragraphs(info["description"]),
            "<h2>First steps</h2>",
            FIRST_STEPS,
            "<h2>URLs</h2><nav><ul>",
            *contents,
            "</ul></nav>",
            *(line for method, path, operation in operations for line in _operation(method, path, operation)),
            "<h2>Models</h2>",
            *(line for name, schema in sorted(schemas.items()) for line in _model(name, schema)),
            "</body></html>",
        ]
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{operation["operationId"]}"><code>{method.upper()} {escape(path)}</code></h3>'
    yield f"<p>{escape(operation['summary'])}. {_door(operation['security'])}</p>"
    yield from _paragraphs(operation.get("description", ""))
    if parameters := operation.get("parameters"):
        rows = ((each["name"], each["in"], _type(each["schema"])) for each in parameters)
        yield from _table("Parameters", rows)
    if body := operation.get("requestBody"):
        yield f"<h4>Body: {escape(', '.join(body['content']))}</h4>"
        content = next(iter(body["content"].values()))
        yield f"<p>{_type(content['schema'])}</p>"
        for name, example in content.get("examples", {}).items():
            text = json.dumps(example["value"], indent=2, ensure_ascii=False)
            yield f"<p>{escape(name)}</p><pre>{escape(text)}</pre>"
    yield from _table("Answers", (_answer(status, each) for status, each in operation["responses"].items()))


def _answer(status: str, answer: dict[str, Any]) -> tuple[str, str, str]:
    bodies = [_type(each["schema"]) if "schema" in each else kind for kind, each in answer.get("content", {}).items()]
    names = "".join(f"<br><code>{escape(name)}</code>" for name in answer.get("headers", {}))
    return status, _marked(answer["description"]), ", ".join(bodies) + names


def _model(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
    yield from _paragraphs(schema.get("description", ""))
    if "enum" in schema:
        yield f"<p>{_type(schema)}</p>"
    required = schema.get("required", [])
    rows = (
        (field, "" if field in required else "optional", _type(each))
        for field, each in schema.get("properties", {}).items()
    )
    yield from _table("", rows)
    for example in schema.get("examples", []):
        yield f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with a link to the model that it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    words = [_type(each) for each in schema.get("anyOf", [])]
    kind = " or ".join(words) or str(schema.get("format") or schema.get("type", "any"))
    if "items" in schema:
        kind = f"list of {_type(schema['items'])}"
    if "enum" in schema:
        kind = " ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    if schema.get("default") is not None:
        kind += f", default <code>{escape(str(schema['default']))}</code>"
    return f"{kind}. {_marked(schema['description'])}" if "description" in schema else kind


def _door(security: list[dict[str, list[str]]]) -> str:
    if not security:
        return "Open to anyone."
    ((scheme, scopes),) = security[0].items()
    needs = "".join(f" with the scope <code>{escape(scope)}</code>" for scope in scopes)
    return ("HTTP Basic" if scheme == "basic" else "A Bearer token") + needs + "."


def _table(title: str, rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    lines = [
        f"<tr><td><code>{escape(first)}</code></td><td>{second}</td><td>{third}</td></tr>"
        for first, second, third in rows
    ]
    if lines:
        yield f"<h4>{title}</h4><table>" if title else "<table>"
        yield from lines
        yield "</table>"


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in filter(None, text.strip().split("\n\n")):
        yield f"<p>{_marked(paragraph)}</p>"


def _marked(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
