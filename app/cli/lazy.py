"""A group whose commands are imported when they are called: its help lists them without that."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group of commands.

    Args:
        lazy: By name where each command is, as `package.module:name`, and the first sentence of its help.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return sorted({*self.lazy, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; it is imported here."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Writes their names and sentences."""
        sentences = {name: command.get_short_help_str(formatter.width) for name, command in self.commands.items()}
        sentences |= {name: sentence for name, (_, sentence) in self.lazy.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(sentences.items()))
