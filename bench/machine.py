"""What machine this is: the few numbers that let results from two machines be compared."""

import os
import platform
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from pydantic_core import from_json

from bench.load import payload

SHORT = ("processors", "parser", "disk")
"""The calibrations that stand beside every table."""

PACKAGES = ("priohook", "starlette", "uvicorn", "httptools", "uvloop", "pydantic-core", "sqlalchemy", "asyncpg")


def versions(postgres_version: str) -> dict[str, str]:
    """The version of everything that takes part, by name."""
    found = {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {**found, "SQLite": sqlite3.sqlite_version, "PostgreSQL": postgres_version, "generator": _wrk()}


def calibration(folder: Path, *, seconds: float = 0.5) -> dict[str, str]:
    """What the machine does alone, by name: processors, parsing, and fsync in the databases' folder."""
    block, order = bytes(4096), payload("order")
    with tempfile.TemporaryFile(dir=folder) as file:

        def write_and_sync() -> None:
            os.pwrite(file.fileno(), block, 0)
            os.fsync(file.fileno())

        return {
            "processors": f"{os.cpu_count()} of {_processor()}",
            "parser": f"{_per_second(lambda: from_json(order), seconds):,.0f} parses of the order a second",
            "disk": f"{_per_second(write_and_sync, seconds):,.0f} writes of 4 KiB with fsync a second",
        }


def _per_second(action: Callable[[], object], seconds: float) -> float:
    started = perf_counter()
    done = 0
    while (elapsed := perf_counter() - started) < seconds:
        action()
        done += 1
    return done / elapsed


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _wrk() -> str:
    says = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S607
    return " ".join(says.split()[:2])
