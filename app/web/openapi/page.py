"""Serves the description: one page without scripts, and the OpenAPI document."""

import json
from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property, partial
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from app.web.etags import CURRENT, TAGGED, tagged
from app.web.openapi.document import describe
from app.web.openapi.operations import Answer, Operation, Route
from app.web.response_headers import page_policy

FRESH_FOR = 300  # seconds; after an upgrade the new description is soon seen
CACHEABLE = {"Cache-Control": f"public, max-age={FRESH_FOR}"}


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
        styles = base_styles() + files("app.web.openapi").joinpath("docs.css").read_text("utf-8")
        digest = b64encode(sha256(styles.encode()).digest()).decode()
        return page(self._described, styles=styles).encode(), page_policy(styles=f"'sha256-{digest}'")


def base_styles() -> str:
    """The styles that all pages share."""
    return files("app.web").joinpath("base.css").read_text("utf-8")


def page(document: dict[str, Any], *, styles: str) -> str:
    """The page of an OpenAPI document."""
    environment = Environment(
        loader=PackageLoader("app.web.openapi"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"marked": marked, "pretty": partial(json.dumps, indent=2, ensure_ascii=False)}
    operations = [
        (method, path, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    return environment.get_template("docs.html").render(
        info=document["info"],
        operations=operations,
        schemas=sorted(document["components"]["schemas"].items()),
        styles=Markup(styles),  # noqa: S704 - our own file
    )


def marked(text: str) -> Markup:
    """The text with its code marked."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one is alone
        parts[-2:] = [f"{parts[-2]}`{parts[-1]}"]
    made = (Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts))
    return Markup("").join(made)
