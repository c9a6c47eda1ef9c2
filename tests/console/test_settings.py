import asyncio

import pytest

from app.settings.model import Settings
from tests.cli.test_refusals import refuse
from tests.conftest import SECRET, TOKEN_KEY
from tests.telemetry.test_tally import line


async def test_every_setting_is_shown_with_its_source_and_meaning(desk):
    page = await desk.see("/console/settings")
    for name, field in Settings.model_fields.items():
        assert f"<code>{name}</code>" in page
        assert field.description
    assert "The largest body that is accepted, after decompression." in page
    assert "<bdi>default</bdi>" in page


@pytest.mark.parametrize("secret", [SECRET, TOKEN_KEY, "key=secret"])
async def test_no_secret_is_shown(desk, secret):
    page = await desk.see("/console/settings")
    assert secret not in page
    assert "https://erp.example/***?key=***" in page


async def test_clients_are_shown_with_what_they_may_do_and_no_digest(desk):
    page = await desk.see("/console/settings")
    assert "console events:erase events:read events:replay" in page
    assert "sha256" not in page.partition("All settings")[0]


async def test_the_last_refusal_of_a_client_is_shown(desk, database_url):
    await asyncio.to_thread(refuse, database_url, line(client="prioticket", reason="wrong_secret"))
    page = await desk.see("/console/settings")
    assert "401 <bdi>wrong secret</bdi> from <bdi>192.0.2.1</bdi>" in page


async def test_a_process_with_other_settings_is_pointed_out(desk, worker):
    page = await desk.see("/console/settings")
    assert page.count(">others</span>") == 1
    assert "restart the older one" in page


async def test_a_source_that_cannot_be_read_any_more_is_pointed_out(desk, tmp_path):
    (tmp_path / "priohook.toml").write_text("max_body_bytes = ")
    page = await desk.see("/console/settings")
    assert "the next restart may fail" in page
    assert "<code>max_body_bytes</code>" in page
