import json

import pytest

from bench import load
from bench.databases import Database, fill
from bench.goals import GOALS, Goal
from bench.measured import unaccounted
from bench.processes import cpu_seconds, rss_mb, running
from bench.results import Results

pytestmark = pytest.mark.slow

SAID = '{"requests": 300, "failed": 100, "broken": 1, "seconds": 2.0, "p50_ms": 1.5, "p99_ms": 9.0}'
HEAD = ("body", "connections", "target", "database")
RECEIVER = ("order", 64, "receiver", "sqlite")


def test_the_generators_output_may_have_words_around_the_result():
    found = load.parse(f"Running 2s test\n{SAID}\nTransfer/sec: 3MB\n")
    assert found.acknowledged == 200
    assert found.p99_ms == 9.0


def test_a_generator_that_says_no_result_is_an_error():
    with pytest.raises(ValueError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:1\n")


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", load.KINDS)
def test_every_request_is_whole_and_its_body_one_of_its_own(kind, later):
    bodies = set()
    for number in (b"0000000000000001", b"0000000000000002"):
        request = load.request_for(kind, run_id="0123abcd", later=later).replace(b"<number>", number)
        request = request.replace(b"<reference>", b"PRI" + number).replace(b"<time>", b"2026-11-26T12:00:00+00:00")
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        assert json.loads(body)["data"]["kind"] == kind
        assert b"0123abcd" in body
        assert b'"PRI' + number in body
        assert b"2026-11-26T12:00:00+00:00" in body
        bodies.add(body)
    assert len(bodies) == 2


def test_a_figure_is_the_median_of_the_repetitions_and_failures_are_summed():
    table = Results().table("Throughput", "", *HEAD)
    for rate in (1, 100, 3):
        table.add(RECEIVER, {"events/s": rate, "failed": 2})
    assert table.figure(RECEIVER, "events/s") == 3
    assert table.figure(RECEIVER, "failed") == 6
    assert table.figure(RECEIVER, "p50 ms") is None
    assert table.figure(("order", 1, "receiver", "sqlite"), "events/s") is None


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (9, "1 of 10 acknowledged events are not stored"),
        (10, None),
        (14, None),
        (15, "5 events are stored beyond"),
    ],
)
def test_stored_events_are_the_acknowledged_ones_and_at_most_those_under_way(stored, words):
    problem = unaccounted(stored, acknowledged=10, under_way=4)
    assert problem == words if words is None else words in (problem or "")


@pytest.mark.parametrize(
    ("sign", "figure", "verdict"),
    [
        ("≥", 2.0, "met"),
        ("≥", 1.9, "not met"),
        ("≥", None, "not measured"),
        ("≤", 2.0, "met"),
        ("≤", 2.1, "not met"),
    ],
)
def test_a_goal_is_met_when_the_figure_keeps_the_bound(sign, figure, verdict):
    assert Goal("", "Growth", "", sign, (), (2,)).verdict(figure) == verdict


def test_a_goal_says_when_its_first_step_is_reached():
    goal = Goal("", "Growth", "", "≥", (), (0.3, 0.4))
    assert goal.verdict(0.35) == "not met, but the first step"
    assert goal.verdict(0.25) == "not met"


def test_the_report_shows_figures_verdicts_and_problems():
    results = Results()
    results.table("Throughput", "Each with 64.", *HEAD).add(RECEIVER, {"events/s": 9000, "of naive": 6.5})
    results.problems.append("naive on sqlite: 1 of 10 acknowledged events are not stored")
    text = results.markdown(machine={"processors": "2"}, verdicts=True)
    assert "- processors: 2" in text
    assert "## Throughput\n\nEach with 64.\n\n" in text
    assert "| order | 64 | receiver | sqlite | 9,000 | 6.5 |" in text
    assert "| Throughput, order, 64, receiver, sqlite | rate, of the naive twin's | ≥ 8 | 6.5 | not met |" in text
    assert "1 of 10 acknowledged events are not stored" in text
    assert text.count("| not measured |") == len(GOALS) - 1
    assert "## Memory" not in text


def test_a_short_runs_report_has_no_verdicts():
    text = Results().markdown(machine={}, verdicts=False)
    assert "met |" not in text
    assert "not measured" not in text


def test_results_of_several_runs_come_together(tmp_path):
    first = Results()
    first.table("Throughput", "Each with 64.", *HEAD).add(RECEIVER, {"events/s": 9000})
    first.table("Soak", "Of old.", "database", "seconds").add(("sqlite", 600), {"p99 ms": 9})
    first.save(tmp_path / "results.json")
    again = Results.load(tmp_path / "results.json")
    again.table("Soak", "Anew.", "database", "seconds").add(("sqlite", 600), {"p99 ms": 7})
    assert again.figure("Throughput", RECEIVER, "events/s") == 9000
    assert again.figure("Soak", ("sqlite", 600), "p99 ms") == 7


async def test_filled_events_are_like_received_ones(database_url, stored):
    await fill(database_url, 50)
    rows = await stored()
    assert len({row.dedup_key for row in rows}) == len(rows) == 50
    assert [row.received_at for row in rows] == sorted(row.received_at for row in rows)
    assert all(row.id.version == 7 and len(row.body) == row.body_bytes for row in rows)


@pytest.mark.parametrize("name", ["receiver", "nostore", "naive", "floor", "starlette"])
def test_every_target_takes_an_event_of_each_kind(name, tmp_path):
    database = Database("sqlite", name, folder=tmp_path)
    stores = name in ("receiver", "naive")
    with running(name, database.url) as target:
        for number, kind in enumerate(load.KINDS, start=1):
            load.post(target.url, kind)
            assert database.count() == (number if stores else 0)
        assert rss_mb(target.pid) > 10
        assert cpu_seconds(target.pid) > 0


def test_the_bare_commit_is_told_in_milliseconds(tmp_path):
    with running("commit", Database("sqlite", "commit", folder=tmp_path).url) as target:
        load.post(target.url, "notification")
        assert float(target.process.stdout.readline()) > 0  # type: ignore[union-attr] # a pipe < 1000
