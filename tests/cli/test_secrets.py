import json
import tomllib
from pathlib import Path

from app.settings.model import Settings


def test_the_secret_that_is_printed_can_be_used_by_a_destination(run):
    printed = run("secrets", "new").text
    entry = printed.partition(":\n\n")[2]
    Path("priohook.toml").write_text(f'[destinations.erp]\nurl = "https://host/in"\n{entry}')
    (secret,) = Settings.load().destinations["erp"].secret
    assert secret.get_secret_value() == tomllib.loads(entry)["secret"]


def test_no_two_secrets_are_the_same(run):
    assert len({json.loads(run("secrets", "new", "--json").text)["secret"] for _ in range(3)}) == 3
