import re

import pytest

from app.console.now import PLACES
from app.console.runbooks import SECTIONS, sections
from tests.pages import PROJECT

WITHOUT = {"settings_differ", "backup_old", "destination_unconfigured"}
"""What is wrong says all that is to be done."""


def names() -> set[str]:
    """The names of all findings."""
    found = " ".join(path.read_text() for path in (PROJECT / "app" / "alarms").glob("*.py"))
    return set(re.findall(r'name="(\w+)"', found)) | {"schema", "database"}


async def test_each_section_is_there_with_its_paragraphs(desk):
    page = await desk.see("/console/runbooks")
    assert 'id="PriohookNoWorker">No worker</h2>' in page
    assert "<strong>Type.</strong> <code>priohook worker</code>" in page
    assert "**" not in page


def test_each_finding_leads_to_a_section_that_is_there():
    assert set(SECTIONS) | WITHOUT == names()
    assert set(SECTIONS.values()) <= {section.name for section in sections()}


def test_each_finding_leads_to_a_page():
    assert set(PLACES) == names()


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.name)
def test_no_markdown_is_left(section):
    for paragraph in section.paragraphs:
        assert not re.search(r"`|\*\*|\]\(|^\s*[-|#]|^\d\. ", paragraph), paragraph
