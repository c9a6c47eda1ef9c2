"""Faults of the operating system: a disk that fails, a full disk, a clock that is set back."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


class CannotRun(Exception):
    """This machine cannot make the fault; the text says what it lacks."""


class Preloaded:
    """A library that makes faults in processes with this `environment`, and the files that control it."""

    def __init__(self, folder: Path) -> None:
        self._fsync = folder / "fsync"
        self._clock = folder / "clock"
        library = folder / "faults.so"
        compiler = shutil.which("cc")
        if sys.platform != "linux" or compiler is None:
            raise CannotRun("it needs Linux and a C compiler named cc")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        library.chmod(0o755)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAULT_FSYNC": str(self._fsync),
            "FAULT_CLOCK": str(self._clock),
        }

    @contextmanager
    def failing_fsync(self) -> Iterator[None]:
        """Makes every fsync and fdatasync fail with EIO."""
        self._fsync.touch()
        try:
            yield
        finally:
            self._fsync.unlink()

    def ahead(self, seconds: int) -> dict[str, str]:
        """The environment of a process whose clock is ahead by so much, or behind if it is negative."""
        clock = self._clock.with_name(f"clock{seconds:+d}")
        clock.write_text(str(-seconds))
        clock.chmod(0o644)
        return self.environment | {"FAULT_CLOCK": str(clock)}

    @contextmanager
    def clock_set_back(self, seconds: int) -> Iterator[None]:
        prepared = self._clock.with_suffix(".new")
        prepared.write_text(str(seconds))
        prepared.chmod(0o644)
        prepared.rename(self._clock)
        try:
            yield
        finally:
            self._clock.unlink()


@contextmanager
def preloaded() -> Iterator[Preloaded]:
    """The library, in a folder that PostgreSQL's user can read too.

    Raises:
        CannotRun: the library cannot be compiled here.
    """
    with tempfile.TemporaryDirectory(prefix="priohook-faults-") as folder:
        Path(folder).chmod(0o755)
        yield Preloaded(Path(folder))


class SmallDisk:
    """A file system of a few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fills the disk to the last byte."""
        with self._ballast.open("wb", buffering=0) as ballast:
            size = 1 << 20
            while size:
                try:
                    ballast.write(b"\0" * size)
                except OSError:
                    size //= 2
        try:
            yield
        finally:
            self._ballast.unlink()


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """Mounts a small disk.

    Raises:
        CannotRun: only root may mount, and not in every container.
    """
    with tempfile.TemporaryDirectory(prefix="priohook-disk-") as folder:
        Path(folder).chmod(0o755)
        disk = Path(folder) / "disk"
        disk.mkdir()
        mounted = os.geteuid() == 0 and shutil.which("mount") is not None
        options = f"size={megabytes}m,mode=700"
        mounted = mounted and not subprocess.call(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk])  # noqa: S607
        if not mounted:
            raise CannotRun("only root can mount a small disk, and not in every container")
        try:
            yield SmallDisk(disk)
        finally:
            subprocess.run(["umount", disk], check=True)  # noqa: S607
