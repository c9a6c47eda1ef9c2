import json
import os
from multiprocessing import Process

from app.telemetry.meter import ACKNOWLEDGED, REQUESTS, Meter
from app.telemetry.snapshots import Publisher, read_snapshots

LINE = {"path": "/healthz", "status": 200}
WAITING = ("priohook_waiting_events", ())


def requests(folder):
    return sum(
        value for each in read_snapshots(folder) for name, labels, value in each.counters if labels == ("health", 200)
    )


async def test_what_a_process_counted_is_in_its_file_when_it_ends(tmp_path):
    meter = Meter()
    async with Publisher(meter, tmp_path, process="receiver-0").running(lambda: {WAITING: 7}):
        meter.answered(LINE, 0.001)
    (snapshot,) = read_snapshots(tmp_path)
    assert (snapshot.process, snapshot.pid, snapshot.runs) == ("receiver-0", os.getpid(), True)
    assert (REQUESTS, ("health", 200), 1) in snapshot.counters
    assert snapshot.gauges == [(*WAITING, 7)]


async def test_a_process_goes_on_from_the_file_of_the_one_before_it(tmp_path):
    for _ in range(3):
        meter = Meter()
        async with Publisher(meter, tmp_path, process="receiver-1").running():
            meter.answered(LINE, 0.001)
    assert requests(tmp_path) == 3


async def test_a_file_that_is_not_whole_counts_nothing(tmp_path):
    (tmp_path / "receiver-0.json").write_bytes(b'{"pid": 1')
    assert read_snapshots(tmp_path) == []
    meter = Meter()
    async with Publisher(meter, tmp_path, process="receiver-0").running():
        meter.answered(LINE, 0.001)
    assert requests(tmp_path) == 1


async def test_a_folder_that_is_gone_costs_the_metrics_only(tmp_path, caplog):
    async with Publisher(Meter(), tmp_path / "gone", process="worker").running():
        pass
    assert [record.message for record in caplog.records] == ["metrics_not_written"]


async def test_a_process_that_died_is_not_taken_for_one_that_runs(tmp_path):
    async with Publisher(Meter(), tmp_path, process="worker").running():
        pass
    path = tmp_path / "worker.json"
    dead = Process()
    dead.start()
    dead.join()
    path.write_text(path.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{dead.pid}'))
    assert [each.runs for each in read_snapshots(tmp_path)] == [False]


async def test_what_another_release_counted_is_left_out(tmp_path):
    content = {
        "pid": os.getpid(),
        "counters": [["priohook_other", [], 3], [REQUESTS, ["health", 200], 2]],
        "histograms": [[ACKNOWLEDGED, [], [1, 2], 0.5]],
        "gauges": [],
    }
    (tmp_path / "receiver-0.json").write_text(json.dumps(content))
    meter = Meter()
    async with Publisher(meter, tmp_path, process="receiver-0").running():
        meter.answered(LINE, 0.001)
    assert requests(tmp_path) == 3
    assert "priohook_other" not in (tmp_path / "receiver-0.json").read_text()
