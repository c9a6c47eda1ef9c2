"""What machine this is: the few numbers that let results from two machines be compared."""

import os
import platform
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from pydantic_core import from_json

from bench.load import payload

PACKAGES = ("priohook", "starlette", "uvicorn", "httptools", "uvloop", "pydantic-core", "sqlalchemy", "asyncpg")
MIB = 1024 * 1024


def versions(postgres_version: str) -> dict[str, str]:
    """The version of everything that takes part, by name."""
    found = {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {**found, "SQLite": sqlite3.sqlite_version, "PostgreSQL": postgres_version, "generator": _wrk()}


def calibration(folder: Path, *, seconds: float = 0.5) -> dict[str, str]:
    """What the machine does alone, by name: processors, hashing, parsing, and fsync in the databases' folder."""
    block, order = bytes(MIB), payload("order")
    with tempfile.TemporaryFile(dir=folder) as file:

        def write_and_sync() -> None:
            os.pwrite(file.fileno(), block[:4096], 0)
            os.fsync(file.fileno())

        return {
            "processors": f"{os.cpu_count()} of {_processor()}",
            "SHA-256, one core": f"{_per_second(lambda: sha256(block).digest(), seconds):,.0f} MiB/s",
            "JSON parse of the order": f"{_per_second(lambda: from_json(order), seconds):,.0f} /s",
            "write of 4 KiB and fsync": f"{_per_second(write_and_sync, seconds):,.0f} /s",
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
