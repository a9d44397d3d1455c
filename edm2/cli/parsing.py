"""Command lines that click has no class for."""

from typing import Any

import click


class PathOrCommand(click.Group):
    """A command of its own, whose subcommands are run if their names come first."""

    allow_extra_args = False
    allow_interspersed_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            ctx.args = args
            return args
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if not ctx.args:
            return click.Command.invoke(self, ctx)
        name, command, args = self.resolve_command(ctx, ctx.args)
        assert command is not None
        with command.make_context(name, args, parent=ctx) as context:
            return command.invoke(context)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return click.Command.collect_usage_pieces(self, ctx)


class OwnArgument(click.Argument):
    """An argument of a `PathOrCommand`, which is not in the usage of its subcommands."""

    def get_usage_pieces(self, ctx: click.Context) -> list[str]:
        return super().get_usage_pieces(ctx) if self in ctx.command.params else []
