"""`/openapi.json` is valid, and describes a running server: schemathesis sends all of it, and no answer is a 500."""

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import schemathesis

from app.web.openapi.document import describe
from app.web.openapi.operations import Route
from tests.conftest import SECRET, WEBHOOK, basic_header, payload
from tests.e2e.conftest import configured
from tests.test_application import application

CLIENTS = {"prioticket": {"secret": SECRET, "scopes": ["webhooks:send", "events:read", "events:replay"]}}
NOBODY = {"url": "http://127.0.0.1:9/", "timeout": 0.1}
ABSENT = "00000000-0000-7000-8000-000000000000"
LONGEST = 300  # seconds; a bound for a slow machine
EXAMPLES = 8

CONFIG = """
[phases.coverage]
unexpected-methods = ["DELETE", "PATCH", "PUT", "TRACE"]

[[operations]]
include-path = "/api/events/{event_id}/replay"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 502, 503, 504]

[[operations]]
include-path = "/api/events/stream"
max-stream-events = 1
request-timeout = 3
phases.coverage.generation.mode = "negative"
"""
"""Only methods that HTTP defines, which are 405. A replay that waits passes on the 5xx of its destination. Of a stream
the beginning is read for 3 seconds, as it has no end and mostly no event; so few requests are sent that it takes."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""Without the check of which input is accepted: a schema cannot describe a cursor or a destination's name."""


def test_the_document_is_valid_openapi():
    described = describe(route for route in application().routes if isinstance(route, Route))
    # OpenAPI 3.1 lets the token's URL be relative, its published schema does not.
    flow = described["components"]["securitySchemes"]["oauth2"]["flows"]["clientCredentials"]
    oauth2 = {"type": "oauth2", "flows": {"clientCredentials": {**flow, "tokenUrl": "https://priohook/oauth2/token"}}}
    schemes = {**described["components"]["securitySchemes"], "oauth2": oauth2}
    document = {**described, "components": {**described["components"], "securitySchemes": schemes}}
    schemathesis.openapi.from_dict(document).validate()


@pytest.fixture
def url(serve, tmp_path: Path) -> str:
    database = f"sqlite+aiosqlite:///{tmp_path / 'priohook.db'}"
    settings = {"clients": json.dumps(CLIENTS), "destinations": json.dumps({"erp": NOBODY})}
    return str(serve(with_worker=True, **configured(database) | settings).url)


@pytest.fixture
def config(url: str, tmp_path: Path) -> Path:
    """Credentials for each URL; of each kind of id, one that exists and one that does not."""
    with httpx2.Client(base_url=url, headers=basic_header()) as client:
        for name in ("01-notification-order-create", "08-order-payload-confirmed", "11-error-body"):
            assert client.post(WEBHOOK, content=payload(name)).status_code in (200, 422)
        token = client.post("/oauth2/token", data={"grant_type": "client_credentials"}).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        accepted = client.get("/api/events", params={"status": "accepted"}).json()["events"]
        quarantined = client.get("/api/events", params={"status": "quarantined"}).json()["events"]
        replay = client.post("/api/replays", json={"filter": {}, "rate": 1}).json()["replay"]["id"]
        assert client.post(f"/api/events/{accepted[0]['id']}/replay").status_code == 202
        delivery = client.get("/api/deliveries").json()["deliveries"][0]["id"]
    known = {
        "event_id": [*(each["id"] for each in accepted + quarantined), ABSENT],
        "delivery_id": [str(delivery), ABSENT],
        "replay_id": [replay, ABSENT],
        "name": ["erp", "absent"],
        "reference": [accepted[0]["reference"], "absent"],
    }
    path = tmp_path / "schemathesis.toml"
    values = [f"[dictionaries.{name}]\nvalues = {json.dumps(each)}" for name, each in known.items()]
    uses = [f'"path.{name}" = {{dictionary = "{name}", probability = 0.8}}' for name in known]
    basic = f'[auth.openapi.basic]\nusername = "prioticket"\npassword = "{SECRET}"'
    bearer = f'[auth.openapi.oauth2]\nbearer = "{token}"'
    path.write_text("\n".join([CONFIG, *values, "[parameters]", *uses, basic, bearer]))
    return path


def test_every_answer_to_schemathesis_is_declared_and_conforms(url, config, tmp_path, long):
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing,stateful", "--seed", "1"),
            *("--max-examples", str(EXAMPLES * 20 if long else EXAMPLES), "--no-color", "--warnings", "off"),
            *("--generation-database", "none", "--continue-on-failure"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONGEST * 20 if long else LONGEST,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
