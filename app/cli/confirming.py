"""Asks before something is done that cannot be undone."""

import sys

import click

from app.telemetry.printing import printable


def confirm(question: str, *, yes: bool) -> None:
    """Asks for confirmation on a terminal; without a terminal, `--yes` must be given.

    Raises:
        click.UsageError: there is no terminal to ask on.
        click.Abort: the answer was no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{question} There is no terminal to ask on: give --yes.")
    click.confirm(printable(question), abort=True, err=True)
