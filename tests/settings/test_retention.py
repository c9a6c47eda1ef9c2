from datetime import timedelta

import pytest
from pydantic import ValidationError

from app.settings.model import Settings
from app.settings.retention import RetentionSettings, as_written


@pytest.mark.parametrize(("written", "age"), [("90d", timedelta(days=90)), ("12h", timedelta(hours=12))])
def test_an_age_is_a_number_of_days_or_hours(written, age):
    ages = RetentionSettings.model_validate({"accepted": written})
    assert ages.accepted == age
    assert as_written(age) == written


@pytest.mark.parametrize("written", ["90", "1w", "-1d", "0d", "d", "", 90, "90 d"])
def test_anything_else_is_refused(written):
    with pytest.raises(ValidationError):
        RetentionSettings.model_validate({"accepted": written})


def test_by_default_everything_is_kept():
    assert Settings().retention is None
    assert {age for name, age in RetentionSettings() if name != "copies"} == {None}


def test_the_environment_sets_one_age(monkeypatch):
    monkeypatch.setenv("PRIOHOOK_RETENTION__ACCEPTED", "90d")
    retention = Settings().retention
    assert retention is not None
    assert retention.accepted == timedelta(days=90)
