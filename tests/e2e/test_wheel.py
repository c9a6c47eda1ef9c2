"""priohook works when installed without a checkout, as by `pip install .`, `uv tool install`, pipx or in an image."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.e2e.conftest import Served, configured, dial, environment_for, new_event, request
from tests.e2e.test_streams import until

PROJECT = Path(__file__).parents[2]


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the source distribution, which must be complete for that."""
    folder = tmp_path_factory.mktemp("built")
    with tarfile.open(build(PROJECT, "sdist", folder / "sdist")) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.glob("priohook-*")
    return build(source, "wheel", folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment, which uses the packages of this one, but not its `app`."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    commands = folder / "bin"
    install = [sys.executable, "-m", "pip", "--python", str(commands / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=120)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (packages / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return commands


def test_a_wheel_has_every_file_of_the_package_and_of_the_migrations_and_the_runbooks(wheel):
    there = {path for folder in ("app", "migrations") for path in (PROJECT / folder).rglob("*") if path.is_file()}
    wanted = {path.relative_to(PROJECT).as_posix() for path in there if path.parent.name != "__pycache__"}
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("app/")}
    assert names == {name.replace("migrations/", "app/migrations/") for name in wanted} | {"app/docs/runbooks.md"}


def test_a_wheel_serves(installed, tmp_path):
    folder = tmp_path / "100%"
    folder.mkdir()
    environment = environment_for(**configured(f"sqlite:///{folder}/priohook.db")) | {"PYTHONPATH": ""}
    server = Served(folder, ("--port", "0"), environment, with_worker=True, command=[str(installed / "priohook")])
    try:
        with dial(server) as wire:
            wire.send(request(new_event()))
            assert wire.reply().status == 200
            wire.send(request(method="GET", target="/docs", authorization=None, content_type=None, length=None))
            assert wire.reply(to="GET").status == 200
        until(lambda: "worker_started" in server.stderr)
    finally:
        server.close()


def test_an_editable_installation_runs_the_checkout(tmp_path):
    command = [sys.executable, "-c", "from app.database import schema; print(schema.MIGRATIONS)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == PROJECT / "migrations"
