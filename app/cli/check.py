"""The command `priohook check`."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.checker.check import Finding, check
from app.checker.wire import NoConnection
from app.cli.credentials import credentials, webhook_url
from app.cli.output import cell, say, say_json


@click.command(name="check")
@click.argument("url")
@click.option(
    "--user", metavar="USERNAME:SECRET", help="The credentials to use; by default those of a configured client."
)
@click.option("--read-only", is_flag=True, help="Send nothing that would be stored.")
@click.option(
    "--timeout",
    default=15.0,
    show_default=True,
    type=click.FloatRange(0.1, 600),
    help="Seconds to wait for each answer; must be longer than body_timeout.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each row.")
def check_(*, url: str, user: str | None, read_only: bool, timeout: float, as_json: bool) -> None:
    """Check a deployed endpoint against everything it promises. Exit 1 if an answer differs."""
    username, password = _credentials(user)
    findings = []
    try:
        for finding in check(
            webhook_url(url), username=username, password=password, read_only=read_only, timeout=timeout
        ):
            findings.append(finding)
            if as_json:
                say_json(_row(finding))
            elif not sys.stdout.isatty():
                say(_lines(finding))
    except NoConnection as error:
        raise click.ClickException(str(error)) from None
    if not as_json:
        if sys.stdout.isatty():
            _print(findings)
        _close(findings, username)
    sys.exit(1 if any(each.differences for each in findings) else 0)


def _credentials(user: str | None) -> tuple[str, str] | tuple[None, None]:
    try:
        return credentials(user)
    except click.UsageError:
        if user is not None:
            raise
        return None, None


def _row(finding: Finding) -> dict[str, Any]:
    row = {
        "row": finding.request.name,
        "sent": finding.request.asked,
        "expected": finding.expected,
        "got": finding.got,
        "ok": not finding.differences,
        "differences": finding.differences,
    }
    return row | ({"advice": finding.advice} if finding.differences else {})


def _lines(finding: Finding) -> str:
    state = "differs" if finding.differences else "ok"
    lines = [f"{state:<8} {finding.request.name}: {finding.got}"]
    if finding.differences:
        lines.append(f"         sent {finding.request.asked}")
        lines.append(f"         expected {finding.expected}; {'; '.join(finding.differences)}.")
        lines.append(f"         {finding.advice}")
    return "\n".join(map(cell, lines))


def _print(findings: list[Finding]) -> None:
    table = Table("", "asked", "expected", "got", "what to do", box=None, pad_edge=False)
    for finding in findings:
        differs = "; ".join(finding.differences)
        table.add_row(
            Text("✗" if differs else "✓", style="red" if differs else "green"),
            Text.assemble(finding.request.name, "\n", (finding.request.asked, "dim")),
            Text(finding.expected),
            Text(cell(f"{finding.got}; {differs}" if differs else finding.got)),
            Text(cell(finding.advice) if differs else ""),
        )
    Console().print(table)


def _close(findings: list[Finding], username: str | None) -> None:
    wrong = sum(bool(each.differences) for each in findings)
    say(f"\n{len(findings)} rows, {wrong} differ. 403, 429 and 503 cannot be checked from outside.")
    if username is None:
        say("Without credentials, only the rows that need none were checked. Give --user USERNAME:SECRET for the rest.")
