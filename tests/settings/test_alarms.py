from datetime import timedelta
from pathlib import Path

import pytest

from app.settings.keys import new_signing_secret
from app.settings.model import Settings, SettingsProblem
from app.settings.urls import masked
from app.settings.values import written_span

TOLD = f"""
[alarms.silence]
quiet = "2h"
events = ["ORDER_*"]
between = "08:00-22:00 Europe/Amsterdam"
[alarms.backlog]
older_than = "10m"
[alarms.dead]
[alarms.refused]
more_than = 20
[alarms.disk]
less_than = "5GB"
[alarm_channels.ops]
url = "mailto://user:secret@mail.example"
[alarm_channels.hook]
url = "https://ops.example/in"
secret = "{new_signing_secret()}"
[alarm_channels.watch]
ping = "https://hc.example/0a1b"
every = "1m"
"""


def load(text: str) -> Settings:
    Path("priohook.toml").write_text(text)
    return Settings.load()


def test_what_the_contract_shows_can_be_used():
    settings = load(TOLD)
    assert settings.alarms
    assert settings.alarms.silence
    assert settings.alarms.silence.quiet == timedelta(hours=2)
    assert settings.alarms.disk
    assert settings.alarms.disk.less_than == 5_000_000_000
    assert settings.alarms.dead
    assert settings.alarms.circuit is None
    assert [each.posts for each in settings.alarm_channels.values()] == [False, True, False]
    assert settings.alarm_channels["watch"].every == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[alarms.quiet]", "alarms.quiet"),
        ('[alarms.silence]\nquiet = "0s"', "alarms.silence.quiet"),
        ('[alarms.silence]\nquiet = "two hours"', "alarms.silence.quiet"),
        ('[alarms.silence]\nbetween = "08:00-22:00"', "Europe/Amsterdam"),
        ('[alarms.silence]\nbetween = "08:00-22:00 Mars/Olympus"', "not a time zone"),
        ('[alarms.backlog]\nolder_then = "10m"', "alarms.backlog.older_then"),
        ("[alarms.refused]\nmore_than = 100", "alarms.refused.more_than"),
        ('[alarms.disk]\nless_than = "5 gigs"', "5GB"),
        ("[alarm_channels.ops]", "exactly one of url"),
        ('[alarm_channels.ops]\nurl = "mail.example"', "apprise URL"),
        ('[alarm_channels.ops]\nurl = "https://:1"', "must have a host"),
        ('[alarm_channels.ops]\nping = "mailto://a@b"', "must begin with https://"),
        ('[alarm_channels.ops]\nurl = "slack://a/b/c"\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"', "signed"),
        ('[alarm_channels.ops]\nurl = "https://a.example"\nsecret = "short"', "whsec_"),
        ('[alarm_channels.ops]\nurl = "https://a.example"\nevery = "1m"', "only a ping has every"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(text, why):
    with pytest.raises(SettingsProblem, match=why):
        load(text)


def test_an_error_does_not_repeat_a_url():
    with pytest.raises(SettingsProblem) as refused:
        load('[alarm_channels.ops]\nurl = "mailto:user:hidden@mail.example"')
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["tgram://bottoken/ChatID", "slack://a:b@c/d?e=f#g", "mailto://user:pass@mail.example"])
def test_nothing_of_an_apprise_url_is_shown(url):
    assert masked(url) == f"{url.partition('://')[0]}://***"


@pytest.mark.parametrize("text", ["0s", "90s", "15m", "24h", "7d"])
def test_a_span_is_written_as_people_write_it(text):
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    shown = written_span(timedelta(seconds=int(text[:-1]) * seconds[text[-1]]))
    assert shown == {"24h": "1d"}.get(text, text)
