"""Where the command starts: loads the one that was called, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

from entitlement_sidecar import __version__
from entitlement_sidecar.domain.errors import EntitlementsError, RetryableError

EXIT_DENIED = 1
"""`check` was answered, and the answer is no."""

EXIT_INPUT = 2
"""Input, configuration or credentials are wrong; trying again cannot help."""

EXIT_UNAVAILABLE = 3
"""Something remote is away; trying again may help."""

EXIT_INTERNAL = 70
"""A defect of this program (EX_SOFTWARE)."""

EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141

_COMMANDS = {
    "quickstart": ("quickstart:quickstart", "Run a plan store and a sidecar, with an example to check."),
    "sidecar": ("sidecar:sidecar", "Run a sidecar."),
    "planstore": ("planstore:planstore", "Run the plan store, or migrate its database."),
    "check": ("check:check", "Ask a sidecar whether a tenant may use a feature."),
    "watch": ("watch:watch", "Follow what a tenant has."),
    "report": ("report:report", "Report usage to a sidecar."),
    "record-task": ("record_task:record_task", "Report a task with its tokens and compute to a sidecar."),
    "correct": ("correct:correct", "Void or amend reported usage, through a sidecar."),
    "reserve": ("reservations:reserve", "Hold an amount whose cost is known only afterwards."),
    "settle": ("reservations:settle", "End a reservation with what was really used."),
    "release": ("reservations:release", "Give a reservation back, or undo a consumption."),
    "outbox": ("outbox:outbox", "See what a sidecar still holds, check it, or put it back."),
    "catalogue": ("catalogue:catalogue", "Validate and apply plans as configuration."),
    "plans": ("plans:plans", "See what is sold."),
    "subscriptions": ("subscriptions:subscriptions", "Create and change subscriptions."),
    "snapshots": ("snapshots:snapshots", "See, verify and republish what sidecars get."),
    "overrides": ("overrides:overrides", "Grant or deny one tenant a feature beside its plan."),
    "credits": ("credits:credits", "Give a tenant credits."),
    "seats": ("seats:seats", "See and change who has a seat."),
    "organizations": ("organizations:organizations", "See which organizations there are."),
    "quotas": ("quotas:quotas", "Ask the plan store itself what a tenant may use."),
    "leases": ("leases:leases", "See who holds quota, and take back what lost holders had."),
    "usage": ("usage:usage", "See what the ledger holds."),
    "break-glass": ("break_glass:break_glass", "In an emergency: open a feature, or freeze snapshots."),
    "tokens": ("tokens:tokens", "Make, list and revoke the tokens of the plan store."),
    "callers": ("callers:callers", "Make tokens for callers of a sidecar."),
    "audit": ("audit:audit", "See who changed what, and verify the log of it."),
    "completion": ("completion:completion", "Print the completion script of a shell."),
}

_EXTRAS = {
    "sqlalchemy": "planstore",
    "alembic": "planstore",
    "fastapi": "planstore",
    "psycopg": "planstore",
    "pygrpc_native": "fast",
}
"""Which extra installs what is imported only where it is needed."""

_PROCESSES = frozenset({"quickstart", "sidecar", "planstore"})
"""Commands whose every option is an environment variable too."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called, so that no command pays for another."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names, in the order in which help shows them."""
        return list(_COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """Imports one command."""
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name][0].split(":")
        command: click.Command = getattr(import_module(f"{__package__}.{module}"), attribute)
        if name in _PROCESSES:
            _read_environment(command)
        return command

    def invoke(self, context: click.Context) -> Any:  # noqa: ANN401 - what the command returns
        """Runs the command; ends quietly when what reads its output has gone, for example `head`."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # The interpreter must not try to flush into it when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(EXIT_PIPE_CLOSED)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        del context
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Names what could have been meant where there is no such command."""
        if arguments and arguments[0] not in _COMMANDS and not arguments[0].startswith("-"):
            allowed = ", ".join(_COMMANDS)
            raise click.UsageError(f"no command {arguments[0]!r}; one of {allowed}", context)
        return super().resolve_command(context, arguments)


def _read_environment(command: click.Command) -> None:
    """Every option of a process is also `ENTITLEMENTS_<OPTION>`; its help names the variable."""
    for parameter in command.params:
        # Nobody should overwrite for good what they meant to overwrite once.
        once = parameter.name == "force"
        if isinstance(parameter, click.Option) and parameter.envvar is None and not once:
            parameter.envvar = f"ENTITLEMENTS_{str(parameter.name).upper()}"
            parameter.show_envvar = True
    if isinstance(command, click.Group):
        for nested in command.commands.values():
            _read_environment(nested)


MAX_REASON = 500
"""Characters of a reason that the plan store takes."""


def _one_line(_: click.Context, __: click.Parameter, reason: str) -> str:
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise click.BadParameter(f"expected one line of at most {MAX_REASON} printable characters")
    return reason


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, or allowed; 1 denied (check), or something does not fit (verify); 2 input, "
    "configuration or credentials are wrong; 3 something remote is away; 70 a defect of this program.",
)
@click.option(
    "--reason",
    envvar="ENTITLEMENTS_REASON",
    default="",
    show_envvar=True,
    callback=_one_line,
    help="Why something is changed at the plan store, for its audit log.",
)
@click.version_option(__version__, prog_name="entitlements")
def cli(reason: str) -> None:
    """Entitlements: who may use what, how much, and what has been used."""
    del reason  # `targets.connect` reads it where a plan store is called


def main(arguments: list[str] | None = None) -> None:
    """Runs one command and exits the process with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs one command; its exit code."""
    try:
        code = cli.main(args=arguments, prog_name="entitlements", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.UsageError) and (hint := _hint(error)):
            click.echo(hint, err=True)
        return EXIT_INPUT
    except click.Abort:
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place where a traceback can be kept from a person
        return _explain(error)
    return code if isinstance(code, int) else 0


def _hint(error: click.UsageError) -> str:
    """What would be right, where click says only what is wrong."""
    if isinstance(error, click.NoSuchOption) and error.option_name == "--reason" and error.ctx is not None:
        below = error.ctx.command_path.partition(" ")[2]
        return f"It comes before the command: entitlements --reason TEXT {below} …"
    if error.message.startswith("No such command") and error.ctx is not None:
        group = error.ctx.command
        names = group.list_commands(error.ctx) if isinstance(group, click.Group) else ()
        return f"There are: {', '.join(names)}"
    return ""


def _explain(error: Exception) -> int:
    known = [one for one in _leaves(error) if isinstance(one, EntitlementsError)]
    if not known:
        return _defect(error)
    for one in known:
        click.echo(f"Error: {one}", err=True)
    retryable = any(isinstance(one, RetryableError) for one in known)
    return EXIT_UNAVAILABLE if retryable else EXIT_INPUT


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        members: tuple[Any, ...] = error.exceptions
        for member in members:
            yield from _leaves(member)
    else:
        yield error


def _defect(error: Exception) -> int:
    if isinstance(error, ModuleNotFoundError) and (extra := _EXTRAS.get(error.name or "")):
        command = f"pip install 'entitlement-sidecar[{extra}]'"
        click.echo(f"Error: this needs the extra {extra!r}: {command}", err=True)
        return EXIT_INPUT
    if os.environ.get("ENTITLEMENTS_DEBUG"):
        raise error
    click.echo(
        f"Error: internal error ({type(error).__name__}). Run it again with ENTITLEMENTS_DEBUG=1 for the "
        "traceback, and report it.",
        err=True,
    )
    return EXIT_INTERNAL


if __name__ == "__main__":
    main()
