"""A group of commands that imports a command only when it is called. Its help lists them without importing any."""

import gc
import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import click


class LazyGroup(click.Group):
    """A group of commands.

    Args:
        lazy: For each command's name, where it is (`package.module:name`) and the first sentence of its help.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, tuple[str, str]], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.lazy, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command and returns it."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(_imported(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        sentences = {name: command.get_short_help_str(formatter.width) for name, command in self.commands.items()}
        sentences |= {name: sentence for name, (_, sentence) in self.lazy.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(sentences.items()))


def _imported(name: str) -> ModuleType:
    """The module. Python looks for no garbage in what is imported, neither meanwhile nor later: there is next to none.

    Looking for it would take a short command a third of its time, most of it when the process ends.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
