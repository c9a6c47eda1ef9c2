"""What the processes of one `serve` or `worker` have counted, as files in a private folder that the page is made from.

Every process writes its file each second, by itself: a scrape asks nothing of a process that answers webhooks. The file
of a process that died stays, and the next one at its place goes on from there, so that no sum ever falls.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from app.telemetry.meter import COUNTED, Labels, Meter, Summed

logger = logging.getLogger(__name__)

EVERY = timedelta(seconds=1)
SUFFIX = ".json"

Gauges = Mapping[tuple[str, Labels], float]
"""Values by name and labels."""


class Snapshot(NamedTuple):
    """What one process had counted when it last wrote its file."""

    process: str
    """`receiver-0` and so on, or `worker`."""
    pid: int
    runs: bool
    counters: list[tuple[str, Labels, int]]
    histograms: list[Summed]
    gauges: list[tuple[str, Labels, float]]


class Publisher:
    """Writes what this process counts.

    Args:
        meter: The counts.
        folder: Where its file is, among those of the others.
        process: Its place there. A forked process sets its own.
    """

    def __init__(self, meter: Meter, folder: Path, *, process: str) -> None:
        self.meter = meter
        self.process = process
        self._folder = folder
        self._failed = False

    @asynccontextmanager
    async def running(self, gauges: Callable[[], Gauges] = dict) -> AsyncIterator[None]:
        """Writes every second and at the end; `gauges` gives what is not counted."""
        if (before := read_snapshot(self._path)) is not None:
            self.meter.go_on_from(before.counters, before.histograms)
        ending = asyncio.Event()
        work = asyncio.create_task(self._work(gauges, ending))
        try:
            yield
        finally:
            ending.set()
            await work

    @property
    def _path(self) -> Path:
        return self._folder / (self.process + SUFFIX)

    async def _work(self, gauges: Callable[[], Gauges], ending: asyncio.Event) -> None:
        last = False
        while not last:
            last = ending.is_set()
            await asyncio.to_thread(self._write, self._content(gauges()))  # the disk may be slow
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY.total_seconds()):
                    await ending.wait()

    def _content(self, gauges: Gauges) -> bytes:
        meter = self.meter
        return orjson.dumps(
            {
                "pid": os.getpid(),
                "counters": [(name, *each) for name, known in meter.counters.items() for each in known.items()],
                "histograms": [
                    (name, labels, each.counts, each.total)
                    for name, known in meter.histograms.items()
                    for labels, each in known.items()
                ],
                "gauges": [(name, labels, value) for (name, labels), value in gauges.items()],
            }
        )

    def _write(self, content: bytes) -> None:
        new = self._path.with_suffix(".new")
        try:
            new.write_bytes(content)
            new.replace(self._path)
        except OSError as error:
            if not self._failed:
                logger.warning("metrics_not_written", extra={"fields": {"error": str(error)}})
            self._failed = True
        else:
            self._failed = False


def read_snapshots(folder: Path) -> list[Snapshot]:
    """Those of all processes, by name."""
    found = (read_snapshot(path) for path in sorted(folder.glob("*" + SUFFIX)))
    return [each for each in found if each is not None]


def read_snapshot(path: Path) -> Snapshot | None:
    """What a file holds; None if there is none."""
    try:
        content = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):  # a file that never reached the disk whole
        return None
    return Snapshot(
        path.stem,
        content["pid"],
        _runs(content["pid"]),
        # One of another release, which was installed meanwhile, may count something else.
        [(name, tuple(labels), value) for name, labels, value in content["counters"] if name in COUNTED],
        [
            (name, tuple(labels), counts, total)
            for name, labels, counts, total in content["histograms"]
            if name in COUNTED and len(counts) == len(COUNTED[name].bounds) + 1
        ],
        [(name, tuple(labels), value) for name, labels, value in content["gauges"]],
    )


def connections_of(pool: Any) -> dict[str, int]:
    """How many connections a pool of SQLAlchemy's has in use, and how many idle."""
    with suppress(AttributeError):  # a pool without a bound counts nothing
        return {"in_use": pool.checkedout(), "idle": pool.checkedin()}
    return {}


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
