from tests.cli.conftest import fill, run, working

__all__ = ["fill", "run", "working"]
