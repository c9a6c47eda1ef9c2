import json
import re
from typing import Any

import pytest
import yaml

from tests.pages import PROJECT, page
from tests.test_docs import anchors

FOLDER = PROJECT / "deploy" / "prometheus"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "priohook.rules.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
RUNBOOKS = page("runbooks")
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
PARTS = ("**Symptom.**", "**Meaning.**", "**Type.**", "**Over.**")


def section(name: str) -> str:
    return RUNBOOKS.partition(f"## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", [rule["alert"] for rule in RULES])
def test_each_alert_has_a_runbook_that_says_what_to_type_and_when_it_is_over(name):
    (rule,) = [rule for rule in RULES if rule["alert"] == name]
    target, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert target == "docs/runbooks.md"
    assert anchor == name.lower()
    assert anchor in anchors(RUNBOOKS)
    assert [part for part in PARTS if part not in section(name)] == []
    assert "`" in section(name).partition("**Type.**")[2]
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_no_runbook_is_of_an_alert_that_does_not_exist():
    names = {rule["alert"] for rule in RULES}
    assert set(re.findall(r"^## (Priohook\w+)$", RUNBOOKS, re.MULTILINE)) == names


def test_each_panel_of_the_dashboard_asks_for_something():
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] and all(each["expr"] for each in panel["targets"]) for panel in panels)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
