import pytest

from app.database.standbys import Standbys, promised, wanted


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("", 0),
        (" ", 0),
        ("*", 1),
        ("b", 1),
        ("b, c", 1),
        ("first, any", 1),
        ("2 (b, c, d)", 2),
        ("FIRST 2 (b, c)", 2),
        ("any 1(b, c)", 1),
        ('"2 (odd"', 1),
    ],
)
def test_the_number_of_standbys_is_read_from_their_names(names, count):
    assert wanted(names) == count


@pytest.mark.parametrize(
    ("standbys", "promise"),
    [
        (Standbys(0, 0), "none is synchronous: with PostgreSQL's machine, acknowledged events can be lost"),
        (Standbys(1, 1), "1 synchronous: an acknowledged event survives the loss of any machine"),
        (Standbys(1, 2), "2 synchronous: an acknowledged event survives the loss of any machine"),
        (Standbys(2, 2), "2 synchronous: an acknowledged event survives the loss of any 2 machines"),
        (Standbys(2, 1), "COMMITS WAIT for 2 synchronous, but there are 1"),
        (Standbys(1, 0, no_primary=True), "unknown: no primary answers, and this is read from a standby"),
        (Standbys(1, 0), "COMMITS WAIT for 1 synchronous, but there are 0"),
        (
            Standbys(1, None),
            "each commit waits for 1; whether they are there, only a role in pg_monitor sees",
        ),
    ],
)
def test_what_standbys_promise_is_told(standbys, promise):
    assert promised(standbys) == promise
