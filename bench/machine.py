"""What machine this is: the few numbers that let results from two machines be compared."""

import os
import platform
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from timeit import Timer

from pydantic_core import from_json

from bench.load import body_for

SHORT = ("processors", "parser", "disk")
"""What stands beside every table."""

PACKAGES = ("priohook", "starlette", "uvicorn", "httptools", "uvloop", "pydantic-core", "sqlalchemy", "asyncpg")


def described(folder: Path, *, postgresql: str) -> dict[str, str]:
    """By name: processors, parsing, fsync in the databases' folder, and the version of everything that takes part."""
    block, order = bytes(4096), body_for("order", run_id="0123abcd")
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), platform.machine())
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S607
    with tempfile.TemporaryFile(dir=folder) as file:

        def write_and_sync() -> None:
            os.pwrite(file.fileno(), block, 0)
            os.fsync(file.fileno())

        return {
            "processors": f"{os.cpu_count()} of {model}",
            "parser": f"{_per_second(lambda: from_json(order)):,.0f} parses of the order a second",
            "disk": f"{_per_second(write_and_sync):,.0f} writes of 4 KiB with fsync a second",
            "Python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "SQLite": sqlite3.sqlite_version,
            "PostgreSQL": postgresql,
            "generator": " ".join(wrk.split()[:2]),
        }


def _per_second(action: Callable[[], object]) -> float:
    times, seconds = Timer(action).autorange()
    return times / seconds
