import asyncio
import json
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from bench import databases, load, plot, report, throughput
from bench.goals import Goal, goals
from bench.plan import Plan
from bench.processes import cpu_seconds, rss_mb, running
from bench.samples import Batches, Key, Ledger, Memory, Results, Sample, Samples, batches

pytestmark = pytest.mark.slow

SHORT = Plan(
    connections=(1,), repetitions=1, seconds=0.2, growth=(0,), kinds=("notification",), warm_up=0.2, settle=0.2
)
SAID = '{"requests": 300, "failed": 100, "broken": 1, "seconds": 2.0, "p50_ms": 1.5, "p99_ms": 9.0}'


def sample(rate: float, *, p50: float = 1.0, p99: float = 2.0, failed: int = 0) -> Sample:
    return Sample(rate=rate, p50_ms=p50, p99_ms=p99, cpu_us=100.0, failed=failed)


def samples(**rates: list[float]) -> Samples:
    """Of 64 connections that post notifications: `receiver_sqlite=[100, 110]`."""
    found = Samples()
    for name, each in rates.items():
        target, _, where = name.partition("_")
        for rate in each:
            found.add(Key(target, where, "notification", 64), sample(rate))
    return found


def test_a_generators_output_may_have_words_around_the_result():
    found = load.parse(f"Running 2s test\n{SAID}\nTransfer/sec: 3MB\n")
    assert found.acknowledged == 200
    assert found.rate == 100


def test_a_generator_that_says_no_result_is_an_error():
    with pytest.raises(ValueError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:1\n")


@pytest.mark.parametrize("kind", load.KINDS)
def test_every_request_is_whole_and_its_body_one_of_its_own(kind):
    bodies = set()
    for number in (b"000000000001", b"000000000002"):
        head, _, body = number.join(load.request_parts(kind, run_id="0123abcd")).partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        assert json.loads(body)["data"]["kind"] == kind
        assert abs(len(body) - len(load.payload(kind))) < 20
        bodies.add(body)
    assert len(bodies) == 2


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.99, 4), (0.25, 1)])
def test_a_percentile_is_one_of_the_values(share, expected):
    assert load.percentile([4, 1, 3, 2], share) == expected


def test_no_values_have_a_percentile_of_0():
    assert load.percentile([], 0.5) == 0


def test_a_median_is_over_the_repetitions():
    assert samples(receiver_sqlite=[1, 100, 3]).median(Key("receiver", "sqlite", "notification", 64), "rate") == 3


def test_a_ratio_compares_within_a_repetition():
    found = samples(receiver_sqlite=[10, 200, 30], naive_sqlite=[5, 100, 10])
    receiver = Key("receiver", "sqlite", "notification", 64)
    assert found.ratio(receiver, receiver._replace(target="naive")) == 2


def test_what_was_not_measured_has_neither_median_nor_ratio():
    found = samples(receiver_sqlite=[10])
    missing = Key("naive", "sqlite", "notification", 64)
    assert found.median(missing, "rate") is None
    assert found.ratio(missing._replace(target="receiver"), missing) is None


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (109, "1 of 10 acknowledged events are not stored"),
        (110, None),
        (114, None),
        (115, "5 events are stored beyond"),
    ],
)
def test_stored_events_are_the_acknowledged_ones_and_at_most_those_under_way(stored, words):
    ledger = Ledger(stored_before=100)
    ledger.add(acknowledged=10, connections=4)
    problem = ledger.problem(stored)
    assert problem == words if words is None else words in (problem or "")


def test_the_median_batch_is_that_of_the_commits():
    assert batches([(1, 3), (64, 2)]) == Batches(1, 64, 5)
    assert batches([]) is None


@pytest.mark.parametrize(
    ("at_least", "values", "verdict"),
    [
        (True, {"a": 2.0, "b": 3.0}, "met"),
        (True, {"a": 1.9, "b": 3.0}, "not met"),
        (True, {"a": 1.0, "b": None}, "not measured"),
        (False, {"a": 2.0, "b": 1.0}, "met"),
        (False, {"a": 2.1, "b": 1.0}, "not met"),
    ],
)
def test_a_goal_is_met_when_every_value_keeps_the_bound(at_least, values, verdict):
    assert Goal(sentence="", bound=2, at_least=at_least, values=values).verdict == verdict


def test_goals_compare_on_the_same_database():
    results = Results(throughput=samples(receiver_sqlite=[90], receiver_postgresql=[70], naive_sqlite=[10]))
    found = {goal.sentence: goal.values["notification"] for goal in goals(results) if "notification" in goal.values}
    assert found["sqlite: rate, of the naive twin's"] == 9
    assert found["postgresql: rate, of the naive twin's"] is None


def test_the_burst_is_compared_with_rest():
    memory = Memory(rest=100, load=120, burst=160, after=110, refused=1, connections=8)
    found = {goal.sentence: goal.values for goal in goals(Results(memory={"sqlite": memory}))}
    assert found["memory after the burst, of that at rest"] == {"sqlite": 1.1, "postgresql": None}


def test_the_report_shows_numbers_verdicts_and_problems():
    results = Results(throughput=samples(receiver_sqlite=[9000], naive_sqlite=[1000], starlette=[20000]))
    results.problems.append("naive on sqlite: 1 of 10 acknowledged events are not stored")
    text = report.markdown(
        results,
        SHORT,
        now=datetime(2026, 8, 12, tzinfo=UTC),
        versions={"Python": "3.11"},
        calibration={"processors": "2"},
        plot="results.svg",
    )
    assert "2026-08-12" in text
    assert "| 64 | receiver sqlite | 9,000 | 1 | 2 | 100 |  | 9 | 0.45 | ? | 0 |" in text
    assert "1 of 10 acknowledged events are not stored" in text
    assert "](results.svg)" in text
    assert "## Memory" not in text


def test_the_plot_is_well_formed_and_draws_each_line_within_its_frame():
    root = ET.fromstring(plot.svg(samples(receiver_sqlite=[100_000_000], floor=[1])))  # noqa: S314 - our own
    drawn = [line for line in root.iter("{http://www.w3.org/2000/svg}polyline") if line.get("points")]
    assert len(drawn) == 2
    for line in drawn:
        x, y = map(float, str(line.get("points")).split(","))
        assert 0 <= x <= plot.WIDTH
        assert 0 <= y <= plot.HEIGHT


async def test_filled_events_are_like_received_ones(database_url, stored):
    await asyncio.to_thread(databases.fill, database_url, 50)
    rows = await stored()
    assert await asyncio.to_thread(databases.count, database_url) == 50
    assert len({row.dedup_key for row in rows}) == 50
    assert [row.received_at for row in rows] == sorted(row.received_at for row in rows)
    assert all(row.id.version == 7 and len(row.body) == row.body_bytes for row in rows)


def test_not_enough_disk_is_said_before_anything_is_filled(tmp_path):
    with pytest.raises(databases.NotEnoughDisk, match="GB free"):
        databases.require_disk(tmp_path, 10**15)


@pytest.mark.parametrize("name", ["nostore", "batches", "naive"])
def test_our_own_generator_gets_200_from_a_target(name, tmp_path):
    sqlite = databases.SQLite(tmp_path)
    url = sqlite.create(name)
    with running(name, url) as target:
        done = load.run(f"{target.url}/webhooks/prioticket", "notification", connections=2, seconds=0.3)
        assert done.acknowledged > 0
        assert done.failed == done.broken == 0
        assert rss_mb(target.pid) > 10
        assert cpu_seconds(target.pid) > 0
    assert (databases.count(url) >= done.acknowledged) is (name != "nostore")


def test_a_smoke_run_measures_every_target_and_finds_every_acknowledged_event(tmp_path):
    said: list[str] = []
    results = Results()
    sqlite = databases.SQLite(tmp_path)
    throughput.measure(SHORT, [sqlite], results, wrk=None, say=said.append)
    assert results.problems == []
    assert {key.target for key in results.throughput} == {
        "floor",
        "starlette",
        "nostore",
        "receiver",
        "naive",
        "commit",
    }
    assert all(results.throughput.failed(key) == 0 for key in results.throughput)
    assert all((results.throughput.median(key, "rate") or 0) > 0 for key in results.throughput)
