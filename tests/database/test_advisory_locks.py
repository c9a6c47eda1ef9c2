import re
from collections import Counter

from tests.pages import PROJECT

NUMBER = re.compile(r"^\w+ = (7_092_717_\d+)", re.MULTILINE)


def test_each_lock_of_the_database_has_a_number_of_its_own():
    sources = (path.read_text() for path in (PROJECT / "app").rglob("*.py"))
    numbers = Counter(
        number for text in sources for number in re.findall(r"^\w+ = (7_092_717_\d+)", text, re.MULTILINE)
    )
    assert len(numbers) >= 6
    assert set(numbers.values()) == {1}
