"""A real Prometheus that asks a real receiver and a real worker."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.e2e.conftest import ENDS_WITHIN, configured, dial, environment_for, new_event, request, serving
from tests.pages import PROJECT

FOLDER = PROJECT / "deploy" / "prometheus"
PATIENCE = 120.0  # seconds; a bound for a slow machine


def free_address() -> str:
    with create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def running(folder: Path, name: str, command: Sequence[str], **settings: str) -> Iterator[None]:
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment_for(**settings), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(ENDS_WITHIN)


class Prometheus:
    def __init__(self, address: str) -> None:
        self._address = address

    def _ask(self, path: str, **query: str) -> Any:
        try:
            with urlopen(f"http://{self._address}/api/v1/{path}?{urlencode(query)}", timeout=10) as reply:
                return json.loads(reply.read())["data"]
        except OSError:  # it has not started yet
            return {"result": [], "alerts": []}

    def value(self, expression: str) -> float | None:
        found = self._ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self._ask("alerts")["alerts"] if each["state"] == "firing"}


def until(condition: Any) -> None:
    ends = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < ends
        sleep(0.2)


def test_prometheus_scrapes_a_receiver_and_a_worker_and_an_alert_fires(tmp_path: Path, sqlite_url: str) -> None:
    receiver, worker, page = free_address(), free_address(), free_address()
    example = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    example["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    example["rule_files"] = [str(FOLDER / "priohook.rules.yml")]
    example["scrape_configs"][0]["static_configs"] = [{"targets": [receiver, worker]}]
    (tmp_path / "prometheus.yml").write_text(json.dumps(example))
    (tmp_path / "business.py").write_text("def take(event): pass\n")
    settings = configured(sqlite_url, destinations=json.dumps({"erp": {"url": "python:business:take"}}))
    asks = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=kept", f"--web.listen-address={page}"]
    with (
        serving(tmp_path, "--port", "0", **settings, metrics=receiver) as served,
        running(tmp_path, "worker", [sys.executable, "-m", "app", "worker"], **settings, metrics=worker),
        running(tmp_path, "prometheus", asks),
    ):
        prometheus = Prometheus(page)
        until(lambda: prometheus.value('sum(up{job="priohook"})') == 2)
        with dial(served) as wire:
            assert wire.send(request(new_event())).reply().status == 200
            assert wire.send(request(b"{}")).reply().status == 422
        until(lambda: prometheus.value("sum(priohook_http_requests_total)") == 2)
        until(lambda: prometheus.value('sum(priohook_attempts_total{outcome="delivered"})') == 1)
        until(lambda: "PriohookQuarantined" in prometheus.firing())
        until(lambda: prometheus.value('max(priohook_processes{kind="worker",state="running"})') == 1)
        assert prometheus.firing() == {"PriohookQuarantined"}
