"""GET /metrics, on an address of its own: what the processes of a `serve` or `worker` count, and the database's state.

The page has a process of its own. It sums the snapshots that the others write, and reads the database at most every
ten seconds, however often it is asked. While the database is away it tells what the processes count all the same.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.alarms.gauges import gauges, gauges_of_host
from app.alarms.places import disks, spool_folder
from app.alarms.readings import read
from app.database.clock import ahead
from app.database.engines import engine_for
from app.database.schema import SchemaNotCurrent
from app.events.fetches import refused_since
from app.settings.model import Settings
from app.telemetry.meter import COUNTED, Histogram, Labels
from app.telemetry.snapshots import Snapshot, read_snapshots
from app.web.transactions import BUGS, DatabaseAway, reading

logger = logging.getLogger(__name__)

KEPT = timedelta(seconds=10)
WITHIN = timedelta(seconds=3)
"""For all that is read from the database; Prometheus waits for ten seconds."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GAUGES = {
    "priohook_waiting_events": ("Events that wait for their commit.", ()),
    "priohook_spooled_events": ("Events in the spool that this receiver writes.", ()),
    "priohook_spooled_bytes": ("The size of its file.", ()),
    "priohook_database_connections": ("Connections of a process's pool to the database.", ("process", "state")),
}
"""What processes say of themselves besides what they count; summed where there are several."""


class Page(Collector):
    """What is to be told; `collect` as `prometheus_client` asks for it.

    Args:
        settings: Complete.
        folder: Where the snapshots are.
        engine: The database's.
        clock: The time.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        engine: AsyncEngine,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._engine = engine
        self._clock = clock
        self._read_at: datetime | None = None
        self._read: list[GaugeMetricFamily] = []
        self._turn = asyncio.Lock()

    async def text(self) -> bytes:
        """The page."""
        async with self._turn:
            now = self._clock()
            if self._read_at is None or not self._read_at <= now < self._read_at + KEPT:
                here = gauges_of_host(disks(self._settings), await spool_folder(self._settings), now=now)
                self._read = [*here, *await self._look(now)]
                self._read_at = self._clock()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return await asyncio.to_thread(generate_latest, registry)

    def collect(self) -> Iterator[Metric]:
        """What the processes count, what they are, and what was last read from the disks and the database."""
        snapshots = read_snapshots(self._folder)
        yield from _counted(snapshots)
        yield from _measured([each for each in snapshots if each.runs])
        yield from _processes(snapshots)
        yield from self._read

    async def _look(self, now: datetime) -> list[GaugeMetricFamily]:
        up = GaugeMetricFamily("priohook_database_up", "Whether the database could be read.", value=0)
        current = GaugeMetricFamily("priohook_schema_current", "Whether its schema is that of this release.")
        try:
            async with reading(self._engine, within=WITHIN) as connection:
                readings = await read(connection, self._settings, now=now + await ahead(connection))
                refused = await refused_since(connection)
        except SchemaNotCurrent:
            up = GaugeMetricFamily("priohook_database_up", up.documentation, value=1)
            current.add_metric((), 0)
            return [up, current]
        except (DatabaseAway, *BUGS):
            logger.info("metrics_without_database", exc_info=True)
            return [up, current]
        up = GaugeMetricFamily("priohook_database_up", up.documentation, value=1)
        current.add_metric((), 1)
        return [up, current, *gauges(readings, configured=self._settings.destinations, refused_since=refused)]


def create_page(settings: Settings, folder: Path) -> Starlette:
    """The application that answers `GET /metrics`, and 404 for all else.

    Args:
        settings: Complete, as the receiver has them.
        folder: Where the snapshots are.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Page]]:
        async with engine_for(settings.database_url, within=WITHIN, writes=False) as engine:
            yield {"page": Page(settings, folder, engine)}

    return Starlette(routes=[Route("/metrics", show)], lifespan=lifespan)


async def show(request: Request) -> Response:
    """The page."""
    page: Page = request.state.page
    return Response(await page.text(), headers={"Content-Type": CONTENT_TYPE})


def _counted(snapshots: Iterable[Snapshot]) -> Iterator[Metric]:
    counts: dict[str, dict[Labels, int]] = {name: {} for name in COUNTED}
    histograms: dict[str, dict[Labels, Histogram]] = {name: {} for name in COUNTED}
    for snapshot in snapshots:
        for name, labels, value in snapshot.counters:
            counts[name][labels] = counts[name].get(labels, 0) + value
        for name, labels, each, total in snapshot.histograms:
            histograms[name].setdefault(labels, Histogram(COUNTED[name].bounds)).add_all(each, total)
    for name, series in COUNTED.items():
        if not series.bounds:
            counter = CounterMetricFamily(name, series.meaning, labels=series.labels)
            for labels, value in counts[name].items():
                counter.add_metric([str(label) for label in labels], value)
            yield counter
            continue
        family = HistogramMetricFamily(name, series.meaning, labels=series.labels)
        for labels, histogram in histograms[name].items():
            family.add_metric([str(label) for label in labels], _buckets(series.bounds, histogram), histogram.total)
        yield family


def _buckets(bounds: tuple[float, ...], histogram: Histogram) -> list[tuple[str, float]]:
    found, below = [], 0
    for bound, count in zip((*bounds, float("inf")), histogram.counts, strict=True):
        below += count
        found.append(("+Inf" if bound == float("inf") else str(float(bound)), float(below)))
    return found


def _measured(snapshots: Iterable[Snapshot]) -> Iterator[Metric]:
    values: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}
    for snapshot in snapshots:
        for name, labels, value in snapshot.gauges:
            if name not in values:  # of another release
                continue
            values[name][labels] = values[name].get(labels, 0.0) + value
    for name, (meaning, labelled) in GAUGES.items():
        family = GaugeMetricFamily(name, meaning, labels=labelled)
        for labels, value in values[name].items():
            family.add_metric(labels, value)
        yield family


def _processes(snapshots: Iterable[Snapshot]) -> Iterator[Metric]:
    """What the system says of each process: memory, processor time, open files."""
    pids = {each.process: each.pid for each in snapshots if each.runs} | {"metrics": os.getpid()}
    found: dict[str, Metric] = {}
    for process, pid in pids.items():
        for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            known = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                known.add_sample(sample.name, {"process": process}, sample.value)
    yield from found.values()
